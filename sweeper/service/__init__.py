"""What is served over HTTP: pages, a JSON API and optuna-dashboard."""

from sweeper.service.app import create_app
from sweeper.service.auth.hosts import below, host_names, is_loopback, proxies
from sweeper.service.serving import Server
from sweeper.service.settings import Settings, pages_of, task_folders

__all__ = [
    "Server",
    "Settings",
    "below",
    "create_app",
    "host_names",
    "is_loopback",
    "pages_of",
    "proxies",
    "task_folders",
]
