"""The id of a request: in its answer's header, in the log, and in its sample."""

import random
import re
import time

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OURS = re.compile(r"([0-9a-f]{11})-[0-9a-f]{10}")


def request_id(given: str | None) -> str:
    """The client's own, when it is short and plain; else a new one, which begins with the time."""
    if given and _PLAIN.fullmatch(given):
        return given
    # Nobody may do anything because he knows one: it need not be hard to guess.
    return f"{time.time_ns() // 1_000_000:011x}-{random.getrandbits(40):010x}"


def began(request: str) -> float | None:
    """When the request with this id began, in seconds since 1970; None for an id that a client chose."""
    ours = _OURS.fullmatch(request)
    return int(ours[1], 16) / 1000 if ours else None
