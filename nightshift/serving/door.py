"""Whether a stranger still gets a turn soon; if not, a share of the requests is refused at once and for little.

What waits for a busy process stands where none of its code can count it: in sockets that the server's thread has not
read yet, because whoever computes holds Python's lock. So the process asks itself over the wire, twenty times a second,
and sees by the clock how long anybody waits for a turn. While that is too long and many wait, each round refuses more
of what comes, before a key, a model or a body is looked at; once it is short again, each round refuses less.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import ssl
import time
from collections.abc import Iterator

from nightshift.serving.metrics import Fact

TOO_MUCH = "too much waits already; ask again"
LATE_S = 0.1  # a wait for the turn that is too long
MANY = 32  # requests that wait; fewer are no queue, the process or the machine is slow
_ROUND_S = 0.05
_LESS, _MORE = 0.7, 1.1  # what the share of a round is of the one before
_LEAST = 0.02  # some are always let in, or nobody would notice that it is over

log = logging.getLogger("nightshift.serving")


class Door:
    """Of one process; the event loop's. ``share`` of the requests is let in, the others ``refused`` counts."""

    def __init__(self) -> None:
        self.share = 1.0
        self.refused = 0
        self.path = f"/turn/{secrets.token_hex(8)}"  # where it asks itself; another process has another
        self._came = 0
        self._asked = self._waited = 0.0
        self._judged = time.monotonic()
        self._said = 0  # of those refused, how many were when the log last spoke of it

    def refuses(self) -> bool:
        """Whether the request that came now is one of those that are refused."""
        self._came += 1
        if self.share == 1 or random.random() < self.share:  # noqa: S311 - no secret hangs on this coin
            return False
        self.refused += 1
        return True

    def facts(self) -> Iterator[Fact]:
        """Who was refused here, for the metrics: nobody else has seen those requests."""
        yield "nightshift_requests", ("", "", "", "rest", "infer", "503"), self.refused

    def turn(self) -> None:
        """The process's own question has its turn."""
        self._waited = time.monotonic() - self._asked

    def judge(self, waited: float, now: float) -> None:
        """A turn was waited for so long: let in less or more from now on."""
        waiting = waited * self._came / max(now - self._judged, 1e-6)  # Little's law
        self._came, self._judged = 0, now
        if waited > LATE_S and waiting > MANY:
            if self.share == 1:
                log.warning("too much to do: a request waits %.2f s for its turn; some are refused", waited)
            self.share = max(self.share * _LESS, _LEAST)
        elif self.share < 1:
            self.share = min(self.share * _MORE, 1.0)
            if self.share == 1:
                log.warning("a request has its turn soon again; %d were refused", self.refused - self._said)
                self._said = self.refused

    async def watch(self, host: str, port: int, tls: bool) -> None:
        """Ask, and judge by the answers, until it is cancelled."""
        context = ssl.create_default_context() if tls else None
        if context:
            context.check_hostname = False  # it speaks to itself
            context.verify_mode = ssl.CERT_NONE
        to = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what was bound, not what is
        while True:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(1):
                    reader, writer = await asyncio.open_connection(to, port, ssl=context)
                try:
                    while await self._round(reader, writer):
                        await asyncio.sleep(_ROUND_S)
                finally:
                    writer.close()
            await asyncio.sleep(0.01)

    async def _round(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One question; False when another process of this port has answered it."""
        self._asked, self._waited = time.monotonic(), 0.0
        writer.write(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        try:
            while not (await asyncio.wait([answer], timeout=_ROUND_S))[0]:
                now = time.monotonic()
                self.judge(self._waited or now - self._asked, now)
            said = answer.result()
        finally:
            answer.cancel()
        self.judge(self._waited, time.monotonic())
        return b" 204 " in said
