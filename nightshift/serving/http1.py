"""HTTP/1.1 for the endpoint: llhttp parses, uvloop carries, and what lies between is here, within limits.

A request is handed on when its headers are there, and fed its body as that comes, so that it can be refused before its
body is. Whoever answers it may be a coroutine: it runs right here until it waits for something, and one that waits for
nothing costs neither a task nor a turn of the event loop (asyncio's eager tasks are that from Python 3.12 on).

Every connection is within a size and a time in each of its states; one look at all of them, four times a second, is
cheaper than a timer for each request. Requests that come before the one ahead is answered wait, and nothing more is
read meanwhile. Who does not take his answers is not read either, and then cut off.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson

from nightshift.serving.bodies import BODY_TIMEOUT_S, Body, broken_off, too_slow, unreadable

MAX_HEAD = 64 << 10  # bytes of a request's line and headers
MAX_HEADERS = 100
MAX_URL = 8 << 10  # bytes
MAX_AHEAD = 32  # requests that came in one piece behind one that is being answered
HEAD_S = 10.0  # from a connection's begin, or a request's first byte, until its headers are whole
IDLE_S = 75.0  # that a connection may have no request; longer than what stands before it keeps its own (60 s)
UNTAKEN_S = 30.0  # for an answer to be taken
_DRAIN_S = 0.5  # in which the rest of a refused body is still taken: its sender does not read before it has sent
_DRAINED = 1 << 20  # bytes of it
_LINGER_S = 1.0  # that a connection which failed stays open for its last answer to arrive
_TICK_S = 0.25
_AT_ONCE = 256  # connections that are accepted in one turn of the loop
_CROWDED = 0.75  # of the connections that there may be: from here on who got an answer has to leave
_NEVER = float("inf")
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}

log = logging.getLogger("nightshift.serving")


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)


class Request:
    """Its headers are here, its body may still come. ``header`` gives the value of a lower-case name or None."""

    __slots__ = ("awaits", "body", "coroutine", "header", "is_last", "method", "minor", "path", "refusal", "started")

    def __init__(self, method: str, path: str, headers: dict[str, str], minor: str):
        self.method = method
        self.path = path
        self.header: Callable[[str], str | None] = headers.get
        length = headers.get("content-length")
        self.body = Body(int(length) if length is not None else None)
        self.minor = minor  # "1.0" or "1.1"
        self.is_last = False  # of its connection
        self.started = False
        self.awaits = False  # its body
        self.coroutine: Coroutine[Any, Any, Answer] | None = None
        self.refusal: Answer | None = None  # waits until its body has come, or enough of it

    @property
    def asks_first(self) -> bool:
        """Whether its sender waits for a word before the body is sent."""
        return not self.body.size and self.minor == "1.1" and (self.header("expect") or "").lower() == "100-continue"

    @property
    def announces_body(self) -> bool:
        return self.header("transfer-encoding") is not None or bool(self.body.length)


Handler = Callable[[Request], "Answer | Coroutine[Any, Any, Answer]"]


class Server:
    """Listens, and holds the connections: while there are ``most``, others wait in the kernel's queue.

    ``answer`` must not raise.
    """

    def __init__(self, answer: Handler, most: int):
        self.answer = answer
        self.connections: set[Connection] = set()
        self.closing = False
        self.date = ""
        self.tls: ssl.SSLContext | None = None
        self._most = most
        self._socket: socket.socket
        self._accepting = False
        self._opening: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()

    @property
    def crowded(self) -> bool:
        """Whether connections that come need the places of those that are here."""
        return len(self.connections) > _CROWDED * self._most

    async def listen(self, host: str, port: int, tls: tuple[Path, Path] | None, shared: bool) -> None:
        """``tls`` is a certificate and its key; ``shared`` lets other processes listen there too. Raises OSError."""
        if tls:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(*tls)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=self._most, reuse_port=shared)
        self._socket.setblocking(False)
        self._accept(True)
        self._tick()

    async def close(self, patience_s: float) -> None:
        """Accept nothing more, let what is under way be answered, and return when all have left or it took too long."""
        if not self.closing:
            self.closing = True
            self._accept(False)
            self._socket.close()
        for connection in list(self.connections):
            connection.leave()
        if self.connections:
            try:
                async with asyncio.timeout(patience_s):
                    await self._gone.wait()
            except TimeoutError:
                log.warning("%d requests were not answered in %.0f s", len(self.connections), patience_s)

    def made(self, connection: "Connection") -> None:
        self.connections.add(connection)
        if self.closing:
            connection.leave()

    def lost(self, connection: "Connection") -> None:
        self.connections.discard(connection)
        if self.closing and not self.connections:
            self._gone.set()

    def _accept(self, wanted: bool) -> None:
        self._accepting = wanted
        loop = asyncio.get_running_loop()
        if wanted:
            loop.add_reader(self._socket, self._welcome)
        else:
            loop.remove_reader(self._socket)

    def _welcome(self) -> None:
        """Accept who waits, many at once: uvloop's own server accepts one a turn, and under load turns are long."""
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            if len(self.connections) + len(self._opening) >= self._most:
                self._accept(False)
                return
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # of files, for one
                log.warning("no connection can be accepted: %s", error)
                self._accept(False)
                return
            accepted.setblocking(False)
            more: dict[str, Any] = {"ssl": self.tls, "ssl_handshake_timeout": HEAD_S} if self.tls else {}
            task = loop.create_task(self._open(accepted, more))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket, more: dict[str, Any]) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(self), accepted, **more)
        except OSError:  # it left again, or speaks no TLS
            accepted.close()

    def _tick(self) -> None:
        asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        self.date = f"date: {formatdate(usegmt=True)}\r\n"
        now = time.monotonic()
        for connection in list(self.connections):
            if connection.until < now:
                try:
                    connection.late()
                except Exception:
                    log.exception("a connection that was too slow cannot be ended")
        if not (self._accepting or self.closing):
            self._accept(True)


class Connection(asyncio.Protocol):
    """One client's. ``until`` is when patience with what it does now ends, by ``time.monotonic()``."""

    def __init__(self, server: Server):
        self._server = server
        self._transport: asyncio.Transport
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._fields = 0  # of the head that is being read
        self._head = 0  # its bytes; 0: none is
        self._began = False  # that head, in this piece
        self._beside = 0  # bytes of a body's trailers, and of what describes its chunks
        self._upgraded: Request | None = None  # whose body llhttp would leave to another parser
        self._fault: tuple[int, str] | None = None  # of the head
        self._arriving: Request | None = None  # whose body comes
        self._current: Request | None = None  # that is being answered
        self._next: deque[Request] = deque()
        self._reading = True
        self._full = False  # what was written is not taken yet
        self._deaf = False  # what comes is not listened to any more
        self._is_over = False  # the other side has said its last
        self.until = time.monotonic() + HEAD_S

    # What uvloop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._server.tls is None:  # where 0 means that it is always full
            self._transport.set_write_buffer_limits(high=0)  # uvloop sends at once then, not when its turn ends
        self._server.made(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._deaf = self._is_over = True
        self._next.clear()
        self._parser = None  # which holds this
        self._server.lost(self)
        self._break_off()

    def eof_received(self) -> bool:
        """One half of the connection is closed: what was asked before is answered, but TLS has no halves."""
        self._is_over = True
        self._break_off()
        return self._current is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._full = True
        self._pause()
        self.until = time.monotonic() + UNTAKEN_S

    def resume_writing(self) -> None:
        self._full = False
        if self._current is None and not self._deaf:
            self._turn_to_next()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._began, arriving = False, self._arriving
        size = arriving.body.size if arriving else 0
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._fail(400, f"this is no HTTP/1.1: {error}")
            return
        if self._head:
            if not self._began:
                self._head += len(data)
            elif self._current is None:
                self.until = time.monotonic() + HEAD_S
            if self._head > MAX_HEAD:
                self._fault = (431, f"the headers are longer than {MAX_HEAD >> 10} KiB")
        elif arriving and self._arriving is arriving:
            self._beside += len(data) - (arriving.body.size - size)
            if self._beside > max(MAX_HEAD, arriving.body.size):
                self._fault = (400, f"what is beside the body is longer than it and than {MAX_HEAD >> 10} KiB")
        if self._fault:
            self._fail(*self._fault)
        else:
            self._go_on()

    def _feed(self, data: bytes) -> None:
        """To llhttp, which would leave what follows a wish to speak something else to others; there are none."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            request = self._arriving
            if request is None:  # it has no body: it is answered, and the last
                self._deaf = True
                return
            framing = "transfer-encoding" if request.header("transfer-encoding") else "content-length"
            head = f"POST / HTTP/1.1\r\n{framing}: {request.header(framing)}\r\n\r\n"
            self._arriving, self._upgraded = None, request
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(head.encode())
            self._feed(data[wish.args[0] :])

    # What llhttp tells; to raise in these would hide what is wrong

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._fields = 0
        self._head = 1
        self._began = True

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > MAX_URL:
            self._fault = (414, f"the URL is longer than {MAX_URL >> 10} KiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head or self._fault:
            return  # a trailer, or of no use any more
        self._fields += 1
        self._head += len(name) + len(value) + 4  # with what stands between them
        if self._fields > MAX_HEADERS or self._head > MAX_HEAD:
            self._fault = (431, f"the headers are more than {MAX_HEADERS}, or longer than {MAX_HEAD >> 10} KiB")
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key not in self._headers:
            self._headers[key] = text
        elif key == "host":
            self._fault = (400, "Host is given twice")
        else:
            self._headers[key] += ", " + text

    def on_headers_complete(self) -> None:
        self._head = self._beside = 0
        if self._upgraded:
            self._arriving, self._upgraded = self._upgraded, None
            return
        if len(self._next) >= MAX_AHEAD:
            self._deaf = True  # those that were taken are answered, and then it is over
        if self._fault or self._deaf:
            return
        parser = self._parser
        request = Request(parser.get_method().decode(), _path(self._url), self._headers, parser.get_http_version())
        self._arriving = request
        if self._current is None:
            self._current = request
        else:
            self._next.append(request)
            self._pause()

    def on_body(self, data: bytes) -> None:
        if self._arriving:
            self._arriving.body.come(data)

    def on_message_complete(self) -> None:
        request = self._arriving
        if request and not (self._parser.should_upgrade() and request.announces_body):
            request.body.whole = True
            request.is_last = not self._parser.should_keep_alive()
            self._arriving = None

    # What follows from it

    def late(self) -> None:
        """Patience has ended."""
        request = self._current
        if self._full or self._deaf or self._transport.is_closing():
            self._transport.abort()
        elif request is None:
            if self._head:
                self._fail(408, f"the headers did not arrive within {HEAD_S:.0f} s")
            else:
                self._close()
        elif request.refusal:
            self._send(request, request.refusal)
        elif not request.body.whole:
            request.body.fault = too_slow()
            self._go_on()

    def leave(self) -> None:
        """The endpoint stops: go, or go after what is being answered."""
        if self._current is None and not self._deaf:
            self._close()

    def _break_off(self) -> None:
        """No more of a body will come."""
        request = self._current
        if request and not request.body.whole:
            request.body.fault = broken_off()
            self._go_on()

    def _go_on(self) -> None:
        """Start what can be started, wake who waits for a body that is here, and send what only waited for its end."""
        request = self._current
        if request is None:
            return
        body = request.body
        if not request.started:
            request.started = True
            answer = self._server.answer(request)
            if isinstance(answer, Answer):
                self._answered(request, answer)
            else:
                request.coroutine = answer
                self._run(request)
        elif request.refusal:
            if body.whole or body.fault or body.size > _DRAINED:
                self._send(request, request.refusal)
        elif request.awaits and (body.whole or body.fault):
            request.awaits = False
            self._run(request)

    def _run(self, request: Request) -> None:
        """Let the request's coroutine go on until it waits for the next thing, or has the answer."""
        if request.coroutine is None:
            return
        try:
            waits = request.coroutine.send(None)
        except StopIteration as end:
            request.coroutine = None  # which holds the request
            self._answered(request, end.value)
            return
        except BaseException:
            request.coroutine = None
            self._transport.abort()
            raise
        if waits is request.body:
            request.awaits = True
            self._resume()
            self.until = time.monotonic() + BODY_TIMEOUT_S
            if request.asks_first:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif waits is None:  # for the next turn only
            asyncio.get_running_loop().call_soon(self._run, request)
        else:
            if not request.body.whole:
                self._pause()  # nobody counts what would come meanwhile
            self.until = _NEVER
            waits._asyncio_future_blocking = False  # as a task does with what it waits for
            waits.add_done_callback(lambda _: self._run(request))

    def _answered(self, request: Request, answer: Answer) -> None:
        body = request.body
        if body.whole or body.fault or request.asks_first:
            self._send(request, answer)
        else:
            body.drop()
            self._resume()
            request.refusal = answer
            self.until = time.monotonic() + _DRAIN_S

    def _send(self, request: Request, answer: Answer) -> None:
        server, whole = self._server, request.body.whole
        over = (self._deaf or self._is_over) and not self._next
        close = over or request.is_last or not whole or server.closing or server.crowded
        lines = [_STATUS[answer.status], server.date]
        lines += [f"{name}: {value}\r\n" for name, value in answer.headers]
        if answer.status != HTTPStatus.NO_CONTENT:
            lines.append(f"content-length: {len(answer.body)}\r\n")
        if close:
            lines.append("connection: close\r\n\r\n")
        else:
            lines.append("\r\n" if request.minor == "1.1" else "connection: keep-alive\r\n\r\n")
        head = "".join(lines).encode("latin-1")
        self._current = None
        if not self._transport.is_closing():
            self._transport.write(head if request.method == "HEAD" else head + answer.body)
        if not close:
            self._turn_to_next()
        elif whole or self._is_over:
            self._close()
        else:
            self._linger()

    def _turn_to_next(self) -> None:
        if self._full:
            return
        if self._next:
            self._current = self._next.popleft()
            self.until = _NEVER
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self.until = time.monotonic() + (HEAD_S if self._head else IDLE_S)
        if not self._next:
            self._resume()

    def _fail(self, status: int, error: str) -> None:
        """Refuse what cannot be understood, and all that would come after it."""
        self._deaf = True
        self._next.clear()
        if self._current is None:
            said = [("content-type", "application/json")]
            nobody = Request("GET", "", {}, "1.1")
            self._send(nobody, Answer(status, orjson.dumps({"error": error}), said))
        else:
            if not self._current.body.whole:  # else what comes behind it is what is wrong
                self._current.body.fault = unreadable(error)
            self._go_on()

    def _close(self) -> None:
        """What was written is sent before."""
        self._deaf = True
        self.until = time.monotonic() + UNTAKEN_S
        self._transport.close()

    def _linger(self) -> None:
        """Close without losing what was written: what still comes would have it thrown away."""
        self._deaf = True
        self.until = time.monotonic() + _LINGER_S
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()
        self._resume()

    def _pause(self) -> None:
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()


def _path(url: bytes) -> str:
    """The path of a request's target, decoded once."""
    if not url.startswith(b"/"):
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            url = b"*"
    path = url.partition(b"?")[0].decode("latin-1")
    return unquote(path) if "%" in path else path
