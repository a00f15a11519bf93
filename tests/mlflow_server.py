"""A real MLflow server as a process that can be killed, and a proxy that delays, refuses, makes up or loses answers."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = b"<html>Please sign in</html>"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(is_so: Callable[[], object], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


class MlflowServer:
    """`mlflow server` on a copy of an empty store, with a folder of its own for the artifacts it proxies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.store_uri = f"sqlite:///{folder}/mlflow.db"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", self.store_uri]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._answers)

    def kill(self) -> None:
        """As kill -9 does, its workers too."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=1)
        except OSError:
            return False
        return True


class Proxy:
    """Stands before a server; the attributes say how it behaves from now on."""

    def __init__(self, target_port: int) -> None:
        self.delay = 0.0  # seconds before a request is passed on
        self.refuse: int | None = None  # answer with this status instead
        self.refused: Callable[[str], bool] = lambda path: True  # what is answered so
        self.is_open = threading.Event()  # while it is not set, requests hang
        self.is_open.set()
        self.takes_over: Callable[[str, str], bool] = lambda method, path: False  # answered with 200 and a page instead
        self.lose_answer: Callable[[str, str], bool] = lambda method, path: False  # passed on, but never answered
        self.requests: list[tuple[str, str]] = []
        self.num_answered = 0
        self._target_port = target_port
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.is_open.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests.append((self.command, self.path))
                proxy.is_open.wait()
                time.sleep(proxy.delay)
                if proxy.refuse is not None and proxy.refused(self.path):
                    self.send_error(proxy.refuse)
                    return
                if proxy.takes_over(self.command, self.path):
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html")
                    self.send_header("Content-Length", str(len(PAGE)))
                    self.end_headers()
                    self.wfile.write(PAGE)
                    return
                connection = http.client.HTTPConnection("127.0.0.1", proxy._target_port, timeout=30)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                if proxy.lose_answer(self.command, self.path):
                    return  # the connection is closed without a word
                self.send_response(answer.status)
                for key, value in answer.getheaders():
                    if key.lower() not in {"transfer-encoding", "connection", "content-length"}:
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                proxy.num_answered += 1

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = pass_on  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        return Handler
