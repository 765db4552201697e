"""Bodies of requests and answers: within a size, within a time, inflated within a size, deflated if asked for.

And within a size together: what all bodies of one process may hold of its memory is bounded (``Room``).
"""

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable
from typing import Protocol

from nightshift.serving.call import Call
from nightshift.serving.tensors import RequestError, ask_again

MAX_BODY = 32 << 20  # bytes, as sent and as inflated
ROOM = 256 << 20  # bytes of all bodies that one process has at once
_AT_ONCE = 256 << 10  # bytes up to which a body is taken in one piece, and has its room before it came
BODY_TIMEOUT_S = 10.0
_DRAINED = 1 << 20  # bytes of a refused request that are still taken, so that its sender sees the answer
_DRAIN_S = 0.5
_WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # the protocol's deflate is zlib's form (RFC 9110, 8.4.1.2)
_WORTH_BYTES = 1024  # a shorter answer is not deflated


class Body(Protocol):
    """A request's body as RSGI has it: whole by a call, or chunk by chunk."""

    def __call__(self) -> Awaitable[bytes]: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Patience:
    """``asyncio.timeout`` at a fifth of its cost (1 instead of 5 µs): TimeoutError when the block takes too long."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._over = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        # Who was cancelled by somebody else too stays cancelled.
        if self._over and self._task and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError

    def _end(self) -> None:
        self._over = True
        if self._task:
            self._task.cancel()


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

    def leave(self, call: Call) -> None:
        self.left += call.holds
        call.holds = 0


async def whole(length: str | None, body: Body, call: Call, room: Room) -> bytes:
    """The body of this call.

    Raises RequestError 413 beyond MAX_BODY, 408 beyond BODY_TIMEOUT_S, 400 when it breaks off, and 503 when there is no
    room for it, at the headers if they say its length.
    """
    size = int(length) if length is not None and length.isdecimal() else None
    if size is not None:
        if size > MAX_BODY:
            raise _too_big()
        room.demand(size)
    try:
        # Nobody's server has a timeout for bodies: who sends a byte now and then would hold a connection for ever.
        with Patience(BODY_TIMEOUT_S):
            if size is not None and size <= _AT_ONCE:
                room.take(call, size)
                return await body()  # one turn of the loop instead of one a chunk
            # Room for what has come, not for what is promised: else a few who send nothing could have all of it.
            return await _counted(body, call, room)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    except RuntimeError as error:  # granian's own, for a body that breaks off or a chunk that is none
        raise RequestError(400, f"the body cannot be read: {error}") from None


async def _counted(body: Body, call: Call, room: Room) -> bytes:
    chunks, size = [], 0
    async for chunk in body:
        size += len(chunk)
        if size > MAX_BODY:
            raise _too_big()
        room.take(call, len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _too_big() -> RequestError:
    return RequestError(413, f"the body is bigger than {MAX_BODY >> 20} MiB; send the batch in parts")


async def drain(length: str | None, body: Body) -> None:
    """Take a little of a body that nobody wants: an answer before its end would be lost with the connection."""
    taken = 0
    with contextlib.suppress(TimeoutError, RuntimeError), Patience(_DRAIN_S):
        if length is not None and length.isdecimal() and int(length) <= _AT_ONCE:
            await body()
            return
        async for chunk in body:
            taken += len(chunk)
            if taken > _DRAINED:
                return


def inflate(data: bytes, encoding: str | None) -> bytes:
    """The body as it was before ``Content-Encoding``. Raises RequestError 415, 400, and 413 for a bomb."""
    if encoding is None or encoding.strip().lower() in ("", "identity"):
        return data
    wbits = _WBITS.get(encoding.strip().lower())
    if wbits is None:
        raise RequestError(415, f"content-encoding {encoding[:40]!r} is not understood; send gzip, deflate or none")
    reader = zlib.decompressobj(wbits)
    try:
        found = reader.decompress(data, MAX_BODY + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body is not {encoding}: {error}") from None
    if len(found) > MAX_BODY:
        raise RequestError(413, f"the body inflates to more than {MAX_BODY >> 20} MiB; send the batch in parts")
    if not reader.eof or reader.unused_data:
        raise RequestError(400, f"the body is not one whole {encoding} stream")
    return found


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
