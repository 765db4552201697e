"""What REST and gRPC have in common: who is asked, who may ask, what is said of the server, and who watches."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from typing import Any

from nightshift.serving.bodies import Room
from nightshift.serving.call import Call
from nightshift.serving.door import Door
from nightshift.serving.engine import Engine
from nightshift.serving.follow import Follower
from nightshift.serving.guard import Guard
from nightshift.serving.hosts import Header
from nightshift.serving.inference import Inference
from nightshift.serving.model import LoadedModel
from nightshift.serving.statistics import Statistics
from nightshift.serving.tensors import RequestError, ask_again

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
]


@dataclass(frozen=True)
class Front:
    """``watchers`` see every call that ``ended``; they take microseconds and never raise."""

    engine: Engine
    follower: Follower
    guard: Guard
    inference: Inference
    watchers: tuple[Callable[[Call], None], ...]
    statistics: Statistics
    door: Door
    ended: list[Call] = field(default_factory=list)
    room: Room = field(default_factory=Room)

    def find(self, call: Call, name: str, version: str | None, header: Header) -> LoadedModel:
        """The model, if its caller may ask it; who may not is not told whether it is there."""
        try:
            call.model, call.role = self.engine.find(name, version)
        except RequestError as error:
            self.enter(call, header, name)
            names = self.names(call)
            if error.status == 404 and name not in names:
                known = ", ".join(names) or "none yet"
                raise RequestError(404, f"there is no model {name!r} here (models: {known})") from None
            raise
        self.enter(call, header, name)
        return call.model

    def enter(self, call: Call, header: Header, name: str) -> None:
        """Let the caller in to the model of this name, there or not. Who is nobody known gets an answer that names no
        release.
        """
        try:
            self.guard.enter(call, "infer", header, name)
        except RequestError:
            if call.known is None:
                call.model, call.role = None, ""
            raise

    def names(self, call: Call) -> list[str]:
        """The models that its caller may ask: of others a key does not learn that they are there."""
        known = call.known
        return [name for name in self.engine.names() if known is None or known.may(f"predict:{name}")]

    async def is_ready(self) -> bool:
        """Whether every process of this endpoint knows who may ask, and has loaded what it is to serve."""
        return self.guard.ready and await self.follower.all_ready()

    def server(self, call: Call, header: Header) -> dict[str, Any]:
        """The protocol's server metadata."""
        self.guard.enter(call, "infer", header)
        return {"name": "nightshift", "version": package_version("nightshift-ml"), "extensions": EXTENSIONS}

    async def statistics_of(
        self, call: Call, name: str | None, version: str | None, header: Header
    ) -> list[dict[str, Any]]:
        """What has been answered by a version, by all versions of a model that are loaded, or by all models that its
        caller may ask.
        """
        if name is None:
            self.guard.enter(call, "infer", header)
            names = self.names(call)
        else:
            found = self.find(call, name, version, header)
            if version is not None:
                return await self.statistics.tell([found])
            names = [name]
        every = [served for each in names if (served := self.engine.served(each))]
        return await self.statistics.tell([model for served in every for model in served.loaded])

    def index(self, call: Call, header: Header) -> list[dict[str, str]]:
        """The protocol's index of the repository, as far as its caller may ask it."""
        self.guard.enter(call, "infer", header)
        names = self.names(call)
        return [one for one in self.engine.index() if one["name"] in names]

    def refuse_change(self, call: Call, header: Header) -> RequestError:
        """The answer to who would load or unload a model."""
        self.guard.enter(call, "infer", header)
        return RequestError(403, "only the ledger changes what serves: nightshift promote MODEL DIGEST --reason TEXT")

    def end(self, call: Call) -> None:
        """It is answered, and has no place here any more. Let those who watch see it, when this turn of the event loop
        has answered all that it can: nobody's answer waits for it, and what sees one call after the other is still in
        the caches.
        """
        self.inference.leave(call)
        self.room.leave(call)
        call.seconds = time.perf_counter() - call.started
        if not self.ended:
            asyncio.get_running_loop().call_soon(self._watch)
        self.ended.append(call)

    def _watch(self) -> None:
        ended = self.ended.copy()
        self.ended.clear()
        for watch in self.watchers:
            for call in ended:
                watch(call)


def failed(call: Call, error: Exception) -> RequestError:
    """The answer when the fault is ours: of its kind, or of the machine's for now."""
    if isinstance(error, MemoryError):
        return ask_again("there is no memory for it now; ask again")
    return RequestError(500, f"the endpoint failed; its log says how (request {call.id})")
