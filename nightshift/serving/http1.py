"""HTTP/1.1 for the endpoint: llhttp parses, uvloop carries, and what lies between is here, within limits.

A request is handed on when its headers are there, and fed its body as that comes, so that it can be refused before its
body is. Whoever answers it is a coroutine, or has answered it at once.

Requests that come before the one ahead is answered wait, and nothing more is read meanwhile.
"""

import asyncio
import time
from collections import deque
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools

from nightshift.serving.bodies import BODY_TIMEOUT_S, broken_off, too_slow, unreadable
from nightshift.serving.exchange import Answer, Handler, Request
from nightshift.serving.listener import HEAD_S, IDLE_S, UNTAKEN_S, Accepted, Listener
from nightshift.serving.steps import step
from nightshift.serving.tensors import RequestError

MAX_HEAD = 64 << 10  # bytes of a request's line and headers
MAX_HEADERS = 100
MAX_URL = 8 << 10  # bytes
MAX_AHEAD = 32  # requests that came in one piece behind one that is being answered
_DRAIN_S = 0.5  # in which the rest of a refused body is still taken: its sender does not read before it has sent
_DRAINED = 1 << 20  # bytes of it
_LINGER_S = 1.0  # that a connection which failed stays open for its last answer to arrive
_NEVER = float("inf")
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class Connection(Accepted):
    """One client's. What ``handle`` makes of a request must not raise."""

    def __init__(self, handle: Handler, listener: Listener):
        super().__init__(listener)
        self._handle = handle
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
        self._deaf = False  # what comes is not listened to any more
        self._is_over = False  # the other side has said its last
        self.until = time.monotonic() + HEAD_S

    # What uvloop tells

    def connection_lost(self, _: Exception | None) -> None:
        self._deaf = self._is_over = True
        self._next.clear()
        self._parser = None  # which holds this
        self._note_untaken(0)
        self._listener.lost(self)
        self._break_off()

    def eof_received(self) -> bool:
        """One half of the connection is closed: what was asked before is answered, but TLS has no halves."""
        self._is_over = True
        self._break_off()
        return self._current is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._note_untaken(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._full = False
        self._note_untaken(0)
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
        method, minor = parser.get_method().decode(), parser.get_http_version()
        request = Request(self, method, _path(self._url), self._headers, minor)
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
        if request is None:
            return
        request.is_last = request.is_last or not self._parser.should_keep_alive()
        if not (self._parser.should_upgrade() and request.announces_body):
            request.body.whole = True
            self._arriving = None

    # What follows from it

    def late(self) -> None:
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
            request.coroutine = self._handle(request)
            self._run(request)
        elif request.refusal:
            if body.whole or body.fault or body.size > _DRAINED:
                self._send(request, request.refusal)
        elif request.awaits and (body.whole or body.fault):
            request.awaits = False
            self._run(request)

    def _run(self, request: Request) -> None:
        """Let the request's coroutine go on until it waits for the next thing, or has answered and ended."""
        if request.coroutine is None:
            return
        try:
            request.awaits = step(request.coroutine, request.body, lambda: self._run(request))
        except StopIteration:
            request.coroutine = None  # which holds the request
            return
        except BaseException:
            request.coroutine = None
            self._transport.abort()
            raise
        if request.awaits:
            self._resume()
            self.until = time.monotonic() + BODY_TIMEOUT_S
            if request.asks_first:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        else:
            if not request.body.whole:
                self._pause()  # nobody counts what would come meanwhile
            self.until = _NEVER

    def answer(self, request: Request, answer: Answer) -> None:
        """Send it, if there is still somebody, or keep it until who sends a body that is not wanted hears."""
        body = request.body
        if body.whole or body.fault or request.asks_first:
            self._send(request, answer)
        else:
            body.drop()
            self._resume()
            request.refusal = answer
            self.until = time.monotonic() + _DRAIN_S

    def _send(self, request: Request, answer: Answer) -> None:
        listener, whole = self._listener, request.body.whole
        over = (self._deaf or self._is_over) and not self._next
        close = over or request.is_last or not whole or listener.closing or listener.crowded
        lines = [_STATUS[answer.status], listener.date]
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
            self._current = Request(self, "GET", "", {}, "1.1", RequestError(status, error))
        elif not self._current.body.whole:  # else what comes behind it is what is wrong
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


def _path(url: bytes) -> str:
    """The path of a request's target, decoded once."""
    if not url.startswith(b"/"):
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            url = b"*"
    path = url.partition(b"?")[0].decode("latin-1")
    return unquote(path) if "%" in path else path
