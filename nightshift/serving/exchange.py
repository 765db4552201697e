"""What a connection hands on and what it gets back: a request, and its answer."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nightshift.serving.bodies import Body
from nightshift.serving.hosts import Header
from nightshift.serving.tensors import RequestError

if TYPE_CHECKING:
    from nightshift.serving.http1 import Connection


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)


class Request:
    """Its headers are here, its body may still come. ``header`` gives the value of a lower-case name or None. It is
    answered once.

    One with a ``fault`` could not be understood, and is there to be answered with it: it has no path and no headers.
    """

    __slots__ = (
        "_connection",
        "awaits",
        "body",
        "coroutine",
        "fault",
        "header",
        "is_last",
        "method",
        "minor",
        "path",
        "refusal",
        "started",
    )

    def __init__(
        self,
        connection: "Connection",
        method: str,
        path: str,
        headers: dict[str, str],
        minor: str,
        fault: RequestError | None = None,
    ):
        self._connection = connection
        self.fault = fault
        self.method = method
        self.path = path
        self.header: Header = headers.get
        length = headers.get("content-length")
        self.body = Body(int(length) if length is not None else None)
        self.body.fault = fault
        self.minor = minor  # "1.0" or "1.1"
        self.is_last = False  # of its connection
        self.started = False
        self.awaits = False  # its body
        self.coroutine: Coroutine[Any, Any, None] | None = None
        self.refusal: Answer | None = None  # waits until its body has come, or enough of it

    @property
    def asks_first(self) -> bool:
        """Whether its sender waits for a word before the body is sent."""
        return not self.body.size and self.minor == "1.1" and (self.header("expect") or "").lower() == "100-continue"

    @property
    def announces_body(self) -> bool:
        return self.header("transfer-encoding") is not None or bool(self.body.length)

    def answer(self, answer: Answer) -> None:
        self._connection.answer(self, answer)


Handler = Callable[[Request], Coroutine[Any, Any, None] | None]  # None: it is answered already
