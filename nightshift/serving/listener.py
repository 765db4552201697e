"""Who comes over HTTP: connections are accepted, held, watched for their time, and let go when the endpoint stops."""

import asyncio
import logging
import socket
import ssl
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

from nightshift.serving.http1 import HEAD_S, Connection, Handler

_TICK_S = 0.25
_AT_ONCE = 256  # connections that are accepted in one turn of the loop
_CROWDED = 0.75  # of the connections that there may be: from here on who got an answer has to leave

log = logging.getLogger("nightshift.serving")


class Listener:
    """Listens, and holds the connections: while there are ``most``, others wait in the kernel's queue.

    ``answer`` must not raise.
    """

    def __init__(self, answer: Handler, most: int):
        self.answer = answer
        self.connections: set[Connection] = set()
        self.closing = False
        self.date = ""
        self.untaken = 0  # bytes of answers that their connections have yet to send
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
