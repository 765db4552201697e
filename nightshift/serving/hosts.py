"""By which name a request may ask, and from which page.

A page of somebody else can make its own name point here, and its reader's browser then asks us as if we were that
page's own server. So a request must name us by a name that we were told.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence

from nightshift.serving.tensors import RequestError

Header = Callable[[str], str | None]
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:@/\[\]]+))(?::[0-9]{1,5})?")
_ALLOWED = [
    ("access-control-allow-methods", "GET, POST"),
    ("access-control-allow-headers", "authorization, x-api-key, content-type, inference-header-content-length"),
    (
        "access-control-expose-headers",
        "nightshift-model, nightshift-digest, nightshift-role, x-request-id, inference-header-content-length",
    ),
    ("access-control-max-age", "600"),
]


class Hosts:
    """``listen`` is the address that the endpoint listens at, ``names`` more names of it beside loopback's.

    ``origins`` are those of pages elsewhere that may ask, such as ``https://app.example.org``.
    """

    def __init__(self, listen: str, names: Sequence[str] = (), origins: Sequence[str] = ()):
        self.exposed = listen not in LOOPBACK
        self._every_address = listen in _EVERY_ADDRESS
        self._names = {*LOOPBACK, listen.lower(), *(name.lower() for name in names)}
        self._origins = frozenset(origin.rstrip("/") for origin in origins)
        self._seen: set[str] = set()

    def check(self, host: str | None) -> None:
        """Raise RequestError 421 unless the header ``Host`` names this endpoint."""
        if host in self._seen:
            return
        found = _HOST.fullmatch(host or "")
        name = (found[1] or found[2]).lower().rstrip(".") if found else ""
        # At every address we have all of the machine's, and an address is no name that a page could make its own.
        if name not in self._names and not (self._every_address and _is_address(name)):
            said = repr(host[:100]) if host else "nothing"
            raise RequestError(421, f"Host says {said}, no name of this endpoint (nightshift serve --allow-host)")
        if host and len(self._seen) < 1000:
            self._seen.add(host)

    def check_origin(self, header: Header) -> None:
        """Raise RequestError 403 for a page of another origin that was not named."""
        origin = header("origin")
        if origin and origin not in self._origins and origin.partition("://")[2] != header("host"):
            raise RequestError(403, "a page of another origin may not administer this endpoint (--allow-origin)")

    def cors(self, header: Header) -> list[tuple[str, str]]:
        """The headers of an answer to a page of another origin: none unless that origin was named."""
        if not self._origins:
            return []
        origin = header("origin")
        vary = [("vary", "origin")]
        return [*vary, ("access-control-allow-origin", str(origin)), *_ALLOWED] if origin in self._origins else vary


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
