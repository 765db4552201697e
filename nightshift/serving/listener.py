"""Who comes: connections are accepted, held, watched for their time, and let go when the endpoint stops.

Every connection is within a size and a time in each of its states; one look at all of them, four times a second, is
cheaper than a timer for each request.
"""

import asyncio
import logging
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast

HEAD_S = 10.0  # from a connection's begin, or a request's first byte, until its headers are whole
IDLE_S = 75.0  # that a connection may have no request; longer than what stands before it keeps its own (60 s)
UNTAKEN_S = 30.0  # for an answer to be taken
UNTAKEN = 256 << 20  # bytes of all answers that are not taken yet; who makes it more is cut off
_TICK_S = 0.25
_AT_ONCE = 256  # connections that are accepted in one turn of the loop
_CROWDED = 0.75  # of the connections that there may be: from here on who got an answer has to leave

log = logging.getLogger("nightshift.serving")


class Accepted(asyncio.Protocol, ABC):
    """One client's connection. ``until`` is when patience with what it does now ends, by ``time.monotonic()``."""

    until: float

    def __init__(self, listener: "Listener"):
        self._listener = listener
        self._transport: asyncio.Transport
        self._reading = True
        self._full = False  # what was written is not taken yet
        self._untaken = 0  # bytes of answers that it has yet to take

    @abstractmethod
    def late(self) -> None:
        """Patience has ended."""

    @abstractmethod
    def leave(self) -> None:
        """The endpoint stops: go, or go after what is being answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._listener.tls is None:  # where 0 means that it is always full
            self._transport.set_write_buffer_limits(high=0)  # uvloop sends at once then, not when its turn ends
        self._listener.made(self)

    def pause_writing(self) -> None:
        """Who does not take his answers is not read either, and then cut off."""
        self._full = True
        self._pause()
        self.until = time.monotonic() + UNTAKEN_S

    def _note_untaken(self, size: int) -> None:
        """So many bytes of its answers are not taken now."""
        self._listener.untaken += size - self._untaken
        self._untaken = size
        if size and self._listener.untaken > UNTAKEN:
            asyncio.get_running_loop().call_soon(self._transport.abort)

    def _pause(self) -> None:
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()


class Listener:
    """Listens, and holds the connections that ``connect`` makes: while there are ``most``, others wait in the kernel's
    queue. ``alpn`` is the protocol's name where TLS negotiates it.
    """

    def __init__(self, connect: "Callable[[Listener], Accepted]", most: int, alpn: str = "http/1.1"):
        self.connections: set[Accepted] = set()
        self.closing = False
        self.date = ""
        self.untaken = 0  # bytes of answers that their connections have yet to send
        self.tls: ssl.SSLContext | None = None
        self._connect = connect
        self._most = most
        self._alpn = alpn
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
            self.tls.set_alpn_protocols([self._alpn])
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

    def made(self, connection: Accepted) -> None:
        self.connections.add(connection)
        if self.closing:
            connection.leave()

    def lost(self, connection: Accepted) -> None:
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
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self._connect(self), accepted, **more)
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
