"""What a gRPC call says beside its message: how long its caller waits, and at the end its status and who answered.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import re
from functools import lru_cache
from urllib.parse import quote

from nightshift.serving.call import Call
from nightshift.serving.tensors import RequestError

_CODES = {  # of gRPC, by the HTTP status of the same fault
    200: 0,  # OK
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    408: 4,  # DEADLINE_EXCEEDED
    410: 5,
    413: 8,  # RESOURCE_EXHAUSTED
    415: 12,  # UNIMPLEMENTED: what gRPC's own libraries say of a compression that they do not know
    429: 8,
    500: 13,  # INTERNAL
    501: 12,
    503: 14,  # UNAVAILABLE: what a client's retry policy repeats
}
LONGEST = 1000  # characters of a fault
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")  # of a status message, as it is


def deadline(given: str | None) -> float:
    """Seconds that the caller waits, by the header grpc-timeout; 0: as long as need be. RequestError 400."""
    if given is None:
        return 0.0
    found = _TIMEOUT.fullmatch(given)
    if found is None:
        raise RequestError(400, f"grpc-timeout is {given[:40]!r}, must be at most eight digits and a unit")
    return int(found[1]) * _UNITS[found[2]]


def trailers(call: Call, refused: RequestError | None = None) -> list[tuple[bytes, bytes]]:
    """The status, and what stands in a REST answer's headers."""
    found = refusal(refused) if refused else [(b"grpc-status", b"0")]
    found.append((b"x-request-id", call.id.encode()))
    if call.model is not None and call.status not in (401, 403):
        found += _answered_by(call.model.name, call.model.digest, call.role)
    return found


def refusal(error: RequestError) -> list[tuple[bytes, bytes]]:
    """The status of a fault and its words, of which some quote what the client sent: its library takes 8 KiB of
    trailers. A pause that is asked for stands there also in the words of gRPC's retry policy.
    """
    found = [
        (b"grpc-status", b"%d" % _CODES.get(error.status, 3)),
        (b"grpc-message", quote(error.message[:LONGEST], safe=_PLAIN).encode()),
    ]
    for name, value in error.headers:
        if name == "retry-after":  # no other header of a refusal may stand behind a body
            found += [(b"retry-after", value.encode()), (b"grpc-retry-pushback-ms", b"%d" % (1000 * int(value)))]
    return found


@lru_cache(100)
def _answered_by(model: str, digest: str, role: str) -> tuple[tuple[bytes, bytes], ...]:
    said = (("model", model), ("digest", digest), ("role", role))
    return tuple((f"nightshift-{name}".encode(), value.encode()) for name, value in said if value)
