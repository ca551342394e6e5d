"""dashboards/nginx.conf in a real nginx, before two processes of the service."""

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from sweeper import api
from sweeper.bundled import bundled_folder
from tests.support.processes import serving, started_processes
from tests.support.service_world import World, copied
from tests.support.serving import Answer, Site

NGINX: Final = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
NAME: Final = "sweeps.example.org"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not on the PATH"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on the PATH"),
]


class Front(NamedTuple):
    """nginx, what it stands before, and tokens."""

    port: int
    plain: int
    context: ssl.SSLContext
    processes: list[Any]
    world: World
    tokens: dict[str, str]

    def ask(
        self, path: str, method: str = "GET", *, token: str = "", headers: Any = None
    ) -> Answer:
        """Ask over TLS, by the name that people use, with the certificate checked."""
        line = http.client.HTTPConnection(NAME, self.port, timeout=60)
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        line.sock = self.context.wrap_socket(raw, server_hostname=NAME)
        bearer = {"Authorization": f"Bearer {self.tokens[token]}"} if token else {}
        line.request(method, path, headers={**bearer, **(headers or {})})
        response = line.getresponse()
        answer = Answer(response.status, response.read(), response.headers)
        line.close()
        return answer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def written(folder: Path, ports: list[int], plain: int, tls: int) -> Path:
    """Write the file that ships into an nginx of its own, with these ports, names and files."""
    text = (bundled_folder("dashboards") / "nginx.conf").read_text()
    for old, new in (
        ("127.0.0.1:8081", f"127.0.0.1:{ports[0]}"),
        ("127.0.0.1:8082", f"127.0.0.1:{ports[1]}"),
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{tls} ssl;"),
        ("/etc/ssl/certs/sweeps.pem", f"{folder}/cert.pem"),
        ("/etc/ssl/private/sweeps.key", f"{folder}/key.pem"),
        ("/var/cache/nginx/sweeper", f"{folder}/cache"),
    ):
        assert old in text
        text = text.replace(old, new)
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = (
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"user {'root' if os.getuid() == 0 else 'nobody'};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{text}}}\n"
    )
    file = folder / "whole.conf"
    file.write_text(whole)
    return file


@pytest.fixture(scope="module")
def front(template: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Return nginx in front of two processes of the service."""
    folder = tmp_path_factory.mktemp("proxy")
    world = copied(template, folder / "world")
    storage = world.study.storage
    tokens = {
        "ann": api.create_token("ann", "operator", storage),
        "eve": api.create_token("eve", "viewer", storage),
        "tim": api.create_token("tim", "viewer", storage),
    }
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*make, *files, *subject], check=True, capture_output=True)
    options = ("--sign-in", "--allow-host", NAME, "--trusted-proxy", "127.0.0.1")
    with ExitStack() as stack:
        start = stack.enter_context(started_processes(storage, folder))
        pair = [stack.enter_context(serving(start, *options, url=storage)) for _ in "12"]
        plain, tls = free_port(), free_port()
        config = written(folder, [site.port for site, _ in pair], plain, tls)
        subprocess.run([NGINX or "", "-t", "-c", config], check=True, capture_output=True)
        nginx = subprocess.Popen([NGINX or "", "-c", config])
        stack.callback(nginx.wait)
        stack.callback(nginx.terminate)
        until_open(tls)
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        yield Front(tls, plain, context, [process for _, process in pair], world, tokens)


def until_open(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            continue
        return
    raise AssertionError("nginx does not listen")


def test_service_is_reachable_by_name_over_tls(front: Front) -> None:
    page = front.ask("/studies/quick", headers={"Accept": "text/html"})
    assert (page.status, page.headers["Location"]) == (303, "/sign-in?next=/studies/quick")
    signing = front.ask("/sign-in")
    assert signing.status == 200
    assert "Secure" in signing.headers["Set-Cookie"].split("; ")
    assert signing.headers["Strict-Transport-Security"]
    assert front.ask("/v1/studies/quick", token="eve").json["state"] == "finished"
    assert front.ask("/v1/studies/quick/stop", "POST", token="eve").status == 403
    assert front.ask("/dashboard", token="eve").status == 200
    answer = Site(f"http://127.0.0.1:{front.plain}/").ask("/studies?page=2", host=NAME)
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{NAME}/studies?page=2")


def test_finished_report_is_cached_for_signed_in_users(front: Front) -> None:
    path = "/v1/studies/quick/report"
    assert front.ask(path).status == 401
    first, second = front.ask(path, token="ann"), front.ask(path, token="tim")
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("MISS", "HIT")
    assert second.body == first.body
    assert second.headers["Set-Cookie"] is None
    assert front.ask(path).status == 401  # it is kept, and not for everybody
    api.revoke_token("tim", front.world.study.storage)
    assert front.ask(path, token="tim").status == 401
    assert front.ask(path, token="ann").headers["X-Cache"] == "HIT"


def test_unfinished_report_is_not_cached(front: Front) -> None:
    spec = (front.world.folder / "quick.toml").read_text().replace('"quick"', '"other"')
    api.submit(tomllib.loads(spec), [front.world.folder], storage=front.world.study.storage)
    path = "/v1/studies/other/report"
    found = [front.ask(path, token="ann").headers["X-Cache"] for _ in range(2)]
    assert found == ["MISS", "MISS"]


def test_events_are_not_buffered(front: Front) -> None:
    raw = socket.create_connection(("127.0.0.1", front.port), timeout=30)
    with front.context.wrap_socket(raw, server_hostname=NAME) as line:
        head = f"Host: {NAME}\r\nAuthorization: Bearer {front.tokens['eve']}"
        line.sendall(f"GET /studies/quick/events HTTP/1.1\r\n{head}\r\n\r\n".encode())
        got = b""
        while b"12 of 12 trials" not in got:
            got += line.recv(65536)
    assert re.search(rb"content-type: text/event-stream", got, re.IGNORECASE)


def test_proxy_survives_one_dead_process(front: Front) -> None:
    os.kill(front.processes[0].pid, signal.SIGKILL)
    front.processes[0].wait()
    for _ in range(6):
        assert front.ask("/v1/studies", token="eve").status == 200
