"""A file server that misbehaves when it is told to."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler", bytes], None]


class Zenodo(ThreadingHTTPServer):
    """A server of files by path that misbehaves once for each fault in its list, then serves well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.always: Fault = serve  # after the faults
        self.ranges: list[str | None] = []
        self.origin = f"http://127.0.0.1:{self.server_address[1]}"
        self.url = f"{self.origin}/mirror"

    def put(self, name: str, content: bytes) -> str:
        path = f"/records/7/files/{name}?download=1"
        self.files[f"/mirror{path}"] = content
        return self.url + path

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed, or that has seen enough, is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Zenodo

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
        elif self.server.faults:
            self.server.faults.pop(0)(self, content)
        else:
            self.server.always(self, content)

    def log_message(self, *args: object) -> None:
        pass

    def start(self) -> int:
        """The first byte asked for."""
        asked = self.headers["Range"]
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()

    def head_of_range(self, content: bytes, **headers: object) -> bytes:
        """Say that the range asked for follows, and give it."""
        start = self.start()
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.head(206 if start else 200, **{"Content_Length": len(content) - start} | headers)
        return content[start:]


@contextmanager
def served() -> Iterator[Zenodo]:
    with Zenodo() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def serve(handler: Handler, content: bytes, *, stop: int | None = None) -> None:
    """Serve the range asked for, up to `stop` bytes of it."""
    if handler.start() >= len(content) > 0:
        handler.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
    else:
        handler.wfile.write(handler.head_of_range(content)[:stop])


def drop_after(num_bytes: int) -> Fault:
    return functools.partial(serve, stop=num_bytes)


def ignore_range(handler: Handler, content: bytes) -> None:
    handler.head(200, Content_Length=len(content))
    handler.wfile.write(content)


def answer(status: int, body: bytes = b"", **headers: object) -> Fault:
    def fault(handler: Handler, content: bytes) -> None:
        handler.head(status, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return fault


def say(other: bytes) -> Fault:
    return lambda handler, content: serve(handler, other)
