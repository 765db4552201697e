"""A door before the S3 server: all requests pass, until one that a test waits for. That one is held at the door.

So a process is killed in the middle of exactly this request, and not about when it may be.
"""

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Held:
    """The one request that is waited for: the ``nth`` of this method whose key has the pattern."""

    def __init__(self, method: str, pattern: str, nth: int, *, answered: bool):
        self.method = method
        self.pattern = re.compile(pattern)
        self.answered = answered
        self._left = nth
        self._lock = threading.Lock()
        self._came = threading.Event()
        self._open = threading.Event()

    def wait(self) -> None:
        """Until the request is at the door (or, when ``answered``, the server has done what it asks)."""
        assert self._came.wait(240), f"no {self.method} of {self.pattern.pattern} came"

    def open(self) -> None:
        """Let it go on, and all that follow."""
        self._open.set()

    def is_it(self, method: str, key: str) -> bool:
        with self._lock:
            if method != self.method or not self.pattern.search(key):
                return False
            self._left -= 1
            return self._left <= 0

    def stop(self) -> None:
        self._came.set()
        self._open.wait()


class Door:
    """``url`` is what a client takes for the server's."""

    def __init__(self, server_url: str):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, urlsplit(server_url).netloc))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.held: Held | None = None
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def hold(self, method: str, pattern: str, nth: int = 1, *, answered: bool = False) -> Held:
        """Hold a request before the server hears of it, or after (``answered``: what it says comes late)."""
        self.held = Held(method, pattern, nth, answered=answered)
        return self.held

    def close(self) -> None:
        if self.held:
            self.held.open()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def door_to(server_url: str) -> Iterator[Door]:
    """A door, closed in the end."""
    door = Door(server_url)
    try:
        yield door
    finally:
        door.close()


def _handler(door: Door, server: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            held = door.held
            stopped = held if held and held.is_it(self.command, unquote(urlsplit(self.path).path)) else None
            if stopped and not stopped.answered:
                stopped.stop()
            connection = http.client.HTTPConnection(server, timeout=60)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # the Host too, which is signed
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            if stopped and stopped.answered:
                stopped.stop()
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:  # the client was killed, or the server is away
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
