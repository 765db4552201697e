"""Bodies of requests and answers: within a size, within a time, inflated within a size, deflated if asked for.

And within a size together: what all bodies of one process may hold of its memory is bounded (``Room``).
"""

import asyncio
import gzip
import zlib
from collections.abc import Generator

from nightshift.serving.call import Call
from nightshift.serving.tensors import RequestError, ask_again

MAX_BODY = 32 << 20  # bytes, as sent and as inflated
LONG = 1 << 20  # bytes from which reading a body would hold up everybody in the event loop
ROOM = 256 << 20  # bytes of all bodies that one process has at once
BODY_TIMEOUT_S = 10.0
_WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # the protocol's deflate is zlib's form (RFC 9110, 8.4.1.2)
_WORTH_BYTES = 1024  # a shorter answer is not deflated
_PART = 1 << 20  # bytes that a body is inflated by at once


class Room:
    """The memory that bodies may hold together, in bytes; the event loop's. A call has its part until ``leave``."""

    def __init__(self, most: int = ROOM):
        self.left = most

    def demand(self, size: int) -> None:
        """Raises RequestError 503 where a body of this size finds no room now."""
        if size > self.left:
            raise ask_again("the requests that are here hold all memory that there is for bodies; ask again")

    def take(self, call: Call, size: int) -> None:
        """As ``demand``, and it is the call's from now on."""
        self.demand(size)
        self.left -= size
        call.holds += size

    def give_back(self, call: Call, size: int) -> None:
        """Of what the call has."""
        self.left += size
        call.holds -= size

    def leave(self, call: Call) -> None:
        self.left += call.holds
        call.holds = 0


class Body:
    """What has come of a request's body: its connection feeds it, and wakes who awaits it when it is ``whole`` or will
    never be (``fault``).

    ``length`` is that of Content-Length, None of a body in chunks; ``size`` the bytes that came.
    """

    __slots__ = ("_call", "_first", "_more", "_room", "_unwanted", "fault", "length", "size", "whole")

    def __init__(self, length: int | None):
        self.length = length
        self.size = 0
        self.whole = False
        self.fault: RequestError | None = None
        self._first = b""
        self._more: bytearray | None = None  # one buffer: a thousand small pieces would hold many times their bytes
        self._call: Call | None = None
        self._room: Room | None = None
        self._unwanted = False

    def come(self, data: bytes) -> None:
        """One more piece of it."""
        self.size += len(data)
        if self._unwanted or self.fault:
            return
        if self._call:
            self._take(len(data))
        if self._more is not None:
            self._more += data
        elif self._first:
            self._more = bytearray(self._first)
            self._more += data
        else:
            self._first = data

    def drop(self) -> None:
        """Nobody wants it."""
        self._unwanted = True
        self._first, self._more = b"", None

    async def read(self, call: Call, room: Room) -> bytes:
        """All of it, for this call; once, for it is kept no longer.

        Raises RequestError 413 beyond MAX_BODY and 503 when there is no room for it, both at the headers if they say
        its length; 408 beyond BODY_TIMEOUT_S; 400 when it breaks off.
        """
        if self.length is not None:
            if self.length > MAX_BODY:
                raise _too_big()
            room.demand(self.length)
        # Room for what has come, not for what is promised: else a few who send nothing could have all of it.
        self._call, self._room = call, room
        self._take(self.size)
        data = await self
        self.drop()
        return data

    def __await__(self) -> "Generator[Body, None, bytes]":
        if not (self.whole or self.fault):
            yield self
        if self.fault:
            raise self.fault
        return self._first if self._more is None else bytes(self._more)

    def _take(self, size: int) -> None:
        if self.size > MAX_BODY:
            self.fault = _too_big()
        elif self._call and self._room:
            try:
                self._room.take(self._call, size)
            except RequestError as error:
                self.fault = error
        if self.fault:
            self.drop()


def too_slow() -> RequestError:
    return RequestError(408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s")


def broken_off() -> RequestError:
    return RequestError(400, "the body ends before it is whole")


def unreadable(why: str) -> RequestError:
    return RequestError(400, f"the body cannot be read: {why}")


def _too_big() -> RequestError:
    return RequestError(413, f"the body is bigger than {MAX_BODY >> 20} MiB; send the batch in parts")


async def inflated(data: bytes, encoding: str, call: Call, room: Room, most: int = MAX_BODY) -> bytes:
    """The body as it was before its ``Content-Encoding``, ``most`` bytes. It has room as it becomes longer.

    Raises RequestError 415, 400, 413 for a bomb, and 503 when there is no room for it.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    wbits = _WBITS.get(encoding)
    if wbits is None:
        raise RequestError(415, f"content-encoding {encoding[:40]!r} is not understood; send gzip, deflate or none")
    reader, rest, parts, size = zlib.decompressobj(wbits), data, list[bytes](), 0
    while not parts or (len(parts[-1]) == _PART and not reader.eof):
        room.take(call, _PART)
        try:
            parts.append(await asyncio.to_thread(reader.decompress, rest, _PART))
        except zlib.error as error:
            raise RequestError(400, f"the body is not {encoding}: {error}") from None
        rest, size = reader.unconsumed_tail, size + len(parts[-1])
        if size > most:
            limit = f"{most >> 20} MiB" if most >> 20 else f"{most >> 10} KiB"
            raise RequestError(413, f"the body inflates to more than {limit}; send the batch in parts")
    if not reader.eof or reader.unused_data:
        raise RequestError(400, f"the body is not one whole {encoding} stream")
    room.give_back(call, _PART * len(parts) - size)
    return b"".join(parts)


def deflate(data: bytes, accepted: str | None) -> tuple[bytes, str | None]:
    """The answer as its reader accepts it, and its ``Content-Encoding``; gzip at a level that costs little."""
    if accepted is None or len(data) < _WORTH_BYTES:
        return data, None
    parts = (part.replace(" ", "").lower().partition(";") for part in accepted.split(","))
    offers = {name for name, _, weight in parts if weight not in ("q=0", "q=0.0", "q=0.00", "q=0.000")}
    if "gzip" in offers:
        return gzip.compress(data, 1, mtime=0), "gzip"
    if "deflate" in offers:
        return zlib.compress(data, 1), "deflate"
    return data, None
