"""The HTTP service: pages, a JSON API and optuna-dashboard."""

from sweeper.service.app import create_app
from sweeper.service.auth.hosts import host_names, is_loopback, path_prefix, trusted_proxies
from sweeper.service.client_limits import LIMITS, ClientLimits
from sweeper.service.serving import HttpServer
from sweeper.service.settings import Settings, pages_of, task_folders

__all__ = [
    "LIMITS",
    "ClientLimits",
    "HttpServer",
    "Settings",
    "create_app",
    "host_names",
    "is_loopback",
    "pages_of",
    "path_prefix",
    "task_folders",
    "trusted_proxies",
]
