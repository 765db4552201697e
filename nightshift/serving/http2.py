"""HTTP/2 for gRPC: zttp reads and writes the frames, uvloop carries, and what lies between is here, within limits.

zttp has what the protocol says (RFC 9113): frames, header compression, the states of streams, windows; it refuses
headers that never end or that become large. To its user it leaves the connections, their times, how many calls are
under way, and answers that are not taken. It also ends a connection for good at 4,096 calls or 256 that were taken
back, which breaks off the others on it; so its client is told in good time to make a new one (RFC 9113, 6.8).

A call is handed on when its headers are there, and fed its body as that comes. Whoever answers it is a coroutine, or
has answered it at once.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import zttp

from nightshift.serving.hosts import Header
from nightshift.serving.listener import IDLE_S, UNTAKEN_S, Accepted, Listener
from nightshift.serving.steps import step

STREAMS = 128  # calls under way on one connection: what zttp tells its client
_CALLS = 3500  # in the life of a connection
_TAKEN_BACK = 128  # of them
_LEAVING_S = 0.5  # in which a client that is told to make a new connection may still begin calls on the old one
_PART = 256 << 10  # bytes of an answer that are sent at once
_LAST = (1 << 31) - 1  # the highest identifier of a stream
_CANCEL, _REFUSED_STREAM = 8, 7  # RFC 9113, 7
_NEVER = float("inf")

Fields = list[tuple[bytes, bytes]]  # headers or trailers


class Stream:
    """One call: its headers are here, its body may still come. ``header`` gives the value of a lower-case name or None.

    Awaited, it gives what has come of the body since, and b"" when that has ended. It waits no longer than ``until``
    (``time.monotonic()``) and raises TimeoutError then, and ConnectionError when the caller is gone.
    """

    __slots__ = ("_came", "_connection", "awaits", "coroutine", "ended", "fault", "header", "id", "path", "until")

    def __init__(self, connection: "Connection", request: zttp.Request):
        self._connection = connection
        self._came: list[bytes] = []
        self.id = request.stream_id
        self.path = request.path.decode("latin-1")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        self.header: Header = headers.get
        self.ended = request.end_stream  # the body
        self.awaits = False
        self.until = _NEVER
        self.fault: OSError | None = None
        self.coroutine: Coroutine[Any, Any, None] | None = None

    def come(self, data: bytes) -> None:
        if data:
            self._came.append(data)

    def __await__(self) -> "Generator[Stream, None, bytes]":
        while not (self._came or self.ended or self.fault):
            yield self
        if self.fault:
            raise self.fault
        came, self._came = self._came, []
        return came[0] if len(came) == 1 else b"".join(came)

    def answer(self, headers: Fields, body: bytes, trailers: Fields) -> bool:
        """Whether there was still somebody to send it to."""
        return self._connection.answer(self, headers, body, trailers)


Handler = Callable[[Stream], Coroutine[Any, Any, None] | None]  # None: it is answered already


class _Untaken:
    """An answer of which its caller has yet to take the ``rest``, and some of it ``until`` then."""

    __slots__ = ("out", "rest", "stream", "trailers", "until")

    def __init__(self, stream: Stream, out: zttp.Stream, body: bytes, trailers: Fields):
        self.stream, self.out, self.rest, self.trailers = stream, out, memoryview(body), trailers
        self.until = time.monotonic() + UNTAKEN_S


class Connection(Accepted):
    """One client's. What ``handle`` makes of a call must not raise."""

    def __init__(self, handle: Handler, listener: Listener):
        super().__init__(listener)
        self._handle = handle
        self._http2 = zttp.Connection(zttp.SERVER, zttp.HTTP2)
        self._streams: dict[int, Stream] = {}  # of calls that are not answered yet
        self._held_up: dict[int, _Untaken] = {}  # by their streams
        self._calls = self._taken_back = 0
        self._leaving = False
        self._deaf = False  # what comes is not listened to any more
        self._hearing = False  # what has come is being handled, and what is answered meanwhile sent after it
        self._sends = False  # at the end of this turn
        self.until = time.monotonic() + IDLE_S

    # What uvloop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._http2.initiate_connection()
        super().connection_made(transport)
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self._held_up.clear()
        self._note_untaken(0)
        self._hang_up()
        self._listener.lost(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._note_untaken(self._untaken + self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._full = False
        self._resume()
        self._send()
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._hearing = True
        news: dict[int, Stream] = {}
        try:
            self._http2.receive_data(data)
            self._hear(news)
        except zttp.RemoteProtocolError:  # which zttp has told its client
            self._close()
            return
        for stream in news.values():
            if stream.coroutine is None:
                stream.coroutine = self._handle(stream)
                if stream.coroutine is None:
                    self._end(stream)
                else:
                    self._run(stream)
            elif stream.awaits:
                self._run(stream)
        self._hearing = False
        self._send()

    def _hear(self, news: dict[int, Stream]) -> None:
        """All that has come; which calls it is for stands in ``news``."""
        streams, next_event = self._streams, self._http2.next_event
        while True:
            event = next_event()
            if isinstance(event, zttp.Data):
                if (stream := streams.get(event.stream_id)) is not None:
                    stream.come(event.data)
                    news[stream.id] = stream
            elif isinstance(event, zttp.EndOfMessage):
                if (stream := streams.get(event.stream_id)) is not None:
                    stream.ended = True
                    news[stream.id] = stream
            elif isinstance(event, zttp.Request):
                self._calls += 1
                if len(streams) + len(self._held_up) >= STREAMS:
                    self._http2.stream(event.stream_id).reset(_REFUSED_STREAM)
                else:
                    streams[event.stream_id] = news[event.stream_id] = Stream(self, event)
            elif isinstance(event, zttp.RstStream):
                self._taken_back += 1
                self._held_up.pop(event.stream_id, None)
                if (stream := streams.get(event.stream_id)) is not None:
                    stream.fault = ConnectionResetError()
                    news[stream.id] = stream
            elif event is zttp.NEED_DATA or event is zttp.CONNECTION_CLOSED:
                return

    # What follows from it

    def late(self) -> None:
        if self._full or self._transport.is_closing():
            self._transport.abort()
            return
        if not (self._streams or self._held_up):
            if self._leaving:
                self._http2.close()
                self._close()
            else:
                self.leave()
            return
        now = time.monotonic()
        for stream in [stream for stream in self._streams.values() if stream.awaits and stream.until < now]:
            stream.fault = TimeoutError()
            self._run(stream)
        for id_ in [id_ for id_, untaken in self._held_up.items() if untaken.until < now]:
            with contextlib.suppress(zttp.LocalProtocolError):  # it is over already
                self._held_up.pop(id_).out.reset(_CANCEL)
        self._send()
        self._wait()

    def leave(self) -> None:
        if not self._leaving:
            self._leaving = True
            self._http2.close(0, _LAST)
            self._send()
            self._wait()

    def _wait(self) -> None:
        """Be patient until the first of those that are waited for is late."""
        if self._full or self._deaf:
            return
        if self._streams or self._held_up:
            untils = [stream.until for stream in self._streams.values() if stream.awaits]
            self.until = min(untils + [untaken.until for untaken in self._held_up.values()], default=_NEVER)
        else:
            self.until = time.monotonic() + (_LEAVING_S if self._leaving else IDLE_S)

    def _run(self, stream: Stream) -> None:
        """Let the call go on until it waits for the next thing, or has been answered."""
        if stream.coroutine is None:
            return
        stream.awaits = False
        try:
            stream.awaits = step(stream.coroutine, stream, lambda: self._run(stream))
        except StopIteration:
            stream.coroutine = None  # which holds the stream
            self._end(stream)
        except BaseException:
            stream.coroutine = None
            self._transport.abort()
            raise
        else:
            if stream.awaits and stream.until < self.until and not self._full:
                self.until = stream.until

    def _end(self, stream: Stream) -> None:
        """Of a call: its answer is sent, or will be with those of this turn."""
        del self._streams[stream.id]
        if self._deaf:
            return
        if not self._streams:
            self._wait()
        if (self._calls >= _CALLS or self._taken_back >= _TAKEN_BACK) and not self._leaving:
            self.leave()

    def answer(self, stream: Stream, headers: Fields, body: bytes, trailers: Fields) -> bool:
        """Whether there was still somebody to send it to."""
        if self._deaf or isinstance(stream.fault, ConnectionError):  # zttp would begin the stream anew
            return False
        out = self._http2.stream(stream.id)
        try:
            out.send_response(200, headers)
            if not body or (not self._full and len(body) <= self._room(out)):
                if body:
                    out.send_data(body)
                _finish(stream, out, trailers)
            else:
                self._held_up[stream.id] = untaken = _Untaken(stream, out, body, trailers)
                self.until = self.until if self._full else min(self.until, untaken.until)
        except zttp.LocalProtocolError:
            return False
        if len(self._streams) == 1:
            self._send()
        elif not (self._hearing or self._sends):
            self._sends = True
            asyncio.get_running_loop().call_soon(self._send)
        return True

    def _room(self, out: zttp.Stream) -> int:
        """Bytes that may be sent now. zttp would keep what is more, and move all of it for each byte that its caller
        lets come.
        """
        return min(_PART, self._http2.send_window, out.send_window or 0)

    def _send(self) -> None:
        """What there is to send: one answer at once, or those of all calls that were answered in this turn."""
        self._sends = False
        if self._transport.is_closing():
            return
        if data := self._http2.data_to_send():
            self._transport.write(data)
        if self._held_up or self._untaken:
            while not self._full and self._send_parts():
                self._transport.write(self._http2.data_to_send())
            left = sum(len(untaken.rest) for untaken in self._held_up.values())
            self._note_untaken(left + self._transport.get_write_buffer_size())
            if not (self._held_up or self._streams):
                self._wait()

    def _send_parts(self) -> bool:
        """Give zttp a part of each answer that is held up, if it may be sent now; whether there was one."""
        found = False
        for id_, untaken in list(self._held_up.items()):
            size = min(len(untaken.rest), self._room(untaken.out))
            if size > 0:
                found = True
                untaken.out.send_data(untaken.rest[:size])
                untaken.rest = untaken.rest[size:]
                untaken.until = time.monotonic() + UNTAKEN_S
                if not untaken.rest:
                    _finish(untaken.stream, untaken.out, untaken.trailers)
                    del self._held_up[id_]
        return found

    def _hang_up(self) -> None:
        """Nobody who is not answered yet will be."""
        self._deaf = True
        for stream in list(self._streams.values()):
            stream.fault = ConnectionResetError()
            if stream.coroutine is None:
                del self._streams[stream.id]
            elif stream.awaits:
                self._run(stream)

    def _close(self) -> None:
        """What was written is sent before."""
        self._send()
        self._hang_up()
        self.until = time.monotonic() + UNTAKEN_S
        self._transport.close()


def _finish(stream: Stream, out: zttp.Stream, trailers: Fields) -> None:
    out.end_message(trailers)
    if not stream.ended:
        out.reset(0)  # the answer is whole, what is left of the body is of no use (RFC 9113, 8.1)
