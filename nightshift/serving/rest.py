"""The Open Inference Protocol v2 over REST: method, path, headers and body to an answer. No server in here."""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from typing import Any

import orjson

from nightshift.releases.manifest import Manifest
from nightshift.serving import openapi, people, site
from nightshift.serving.call import Call
from nightshift.serving.engine import Engine
from nightshift.serving.follow import Follower
from nightshift.serving.guard import Guard
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import RequestError
from nightshift.serving.watch import Watch

MAX_BODY = 32 << 20  # bytes
BODY_TIMEOUT_S = 10.0
_INLINE_BODY = 128 << 10  # a bigger body, or a model slower than this, would hold up everybody in the event loop
_INLINE_SECONDS = 0.002
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Answer:
    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)


class Rest:
    """``about`` adds what the process knows of itself (registry, checkout) to /status."""

    def __init__(self, engine: Engine, follower: Follower, guard: Guard, watch: Watch, about: Mapping[str, Any]):
        self.engine = engine
        self.follower = follower
        self.guard = guard
        self.watch = watch
        self.watchers: list[Callable[[Call], None]] = [guard.watch, *watch.watchers]
        self.about = dict(about)
        self._threads = ThreadPoolExecutor(thread_name_prefix="infer")

    async def answer(
        self, method: str, path: str, header: Callable[[str], str | None], body: AsyncIterable[bytes]
    ) -> Answer:
        """Never raises: a fault of the client is 4xx with {"error": "…"}."""
        call = Call(request_id(header("x-request-id")), "rest", "", time.perf_counter())
        try:
            if method == "OPTIONS" and (allowed := self.guard.cors(header)):
                return Answer(204, b"", allowed)
            result = await self._route(method, path, header, body, call)
        except RequestError as error:
            call.error = error.message
            result = _json(error.status, {"error": error.message})
            result.headers += error.headers
        call.status = result.status
        if call.model and call.status not in (401, 403, 421):
            # Every answer of a model, a refusal too, names the digest that gave it.
            result.headers += [("nightshift-model", call.model.name), ("nightshift-digest", call.model.digest)]
        result.headers += [("x-request-id", call.id), *self.guard.cors(header)]
        for watch in self.watchers:
            watch(call)
        return result

    async def _route(
        self,
        method: str,
        path: str,
        header: Callable[[str], str | None],
        body: AsyncIterable[bytes],
        call: Call,
    ) -> Answer:
        match path.removeprefix("/").split("/"):
            case ["v2", "health", "live"]:
                _only(method, "GET")
                return _json(200, {"live": True})
            case ["v2", "health", "ready"]:
                _only(method, "GET")
                if not (self.guard.ready and await self.follower.all_ready()):
                    raise RequestError(503, "not ready: nothing is loaded yet")
                return _json(200, {"ready": True})
            case ["v2"]:
                _only(method, "GET")
                self.guard.enter(call, "infer", header)
                version = package_version("nightshift-ml")
                return _json(200, {"name": "nightshift", "version": version, "extensions": []})
            case ["status"]:
                _only(method, "GET")
                call.verb = "status"
                self.guard.enter(call, "admin", header)
                return _json(200, {**await self.follower.status_of_all(), **self.about})
            case ["metrics"]:
                _only(method, "GET")
                call.verb = "metrics"
                self.guard.enter(call, "metrics", header)
                text, content_type = await self.watch.text(header("accept"))
                return Answer(200, text, [("content-type", content_type)])
            case ["refresh"]:
                _only(method, "POST")
                call.verb = "refresh"
                self.guard.enter(call, "admin", header)
                await self.follower.refresh_all()
                return _json(200, {"refreshing": True})
            case [""] | ["docs"] | ["playground"] | ["playground", _]:
                _only(method, "GET")
                return _file(site.PAGE, path)
            case ["pages", name]:
                _only(method, "GET")
                return _file(name, path)
            case ["openapi.json"]:
                _only(method, "GET")
                self.guard.enter(call, "infer", header)
                return _json(
                    200, openapi.document(self._served(), package_version("nightshift-ml"), self.guard.required)
                )
            case ["v1", "models"]:
                _only(method, "GET")
                self.guard.enter(call, "infer", header)
                return _json(200, {"models": [people.about(*each) for each in self._served().values()]})
            case ["v1", "models", *rest] if rest[-1].endswith(":predict"):
                _only(method, "POST")
                call.verb = "predict"
                model = self._find(call, *_name_and_version(rest, path), header)
                return await self._predict(call, model, header, body)
            case ["v2", "models", name, *rest]:
                version_, verb = _version_and_verb(rest, path)
                _only(method, "POST" if verb == "infer" else "GET")
                call.verb = verb or "metadata"
                model = self._find(call, name, version_, header)
                if verb == "infer":
                    return await self._infer(call, model, header, body)
                if verb == "ready":
                    return _json(200, {"name": model.name, "ready": True})
                return _json(200, model.metadata())
        raise _no_path(path)

    def _find(self, call: Call, name: str, version: str | None, header: Callable[[str], str | None]) -> LoadedModel:
        """The model, if its caller may ask it; who has no key is not told which models there are."""
        try:
            call.model = self.engine.find(name, version)
        finally:
            self.guard.enter(call, "infer", header)
        return call.model

    def _served(self) -> dict[str, tuple[Manifest, list[tuple[str, str]]]]:
        """Each model's manifest, and the digests that are loaded of it with their roles."""
        models = (self.engine.find(name, None) for name in self.engine.names())
        return {model.name: (model.manifest, [(model.digest, "champion")]) for model in models}

    async def _predict(
        self, call: Call, model: LoadedModel, header: Callable[[str], str | None], body: AsyncIterable[bytes]
    ) -> Answer:
        data = await _whole(header("content-length"), body)

        def predict() -> list[dict[str, Any]]:
            arrays, items = people.read(model.manifest, header("content-type") or "", data)
            names = [output.name for output in model.manifest.signature.outputs]
            call.items = len(items)
            started = time.perf_counter()
            outputs = dict(zip(names, model.run(arrays, names), strict=True))
            call.computed = time.perf_counter() - started
            return people.tell(model.manifest, outputs, items)

        predictions = await asyncio.get_running_loop().run_in_executor(self._threads, predict)
        said = {"model": model.name, "version": model.version, "digest": model.digest, "role": "champion"}
        return _json(200, {**said, "seconds": time.perf_counter() - call.started, "predictions": predictions})

    async def _infer(
        self, call: Call, model: LoadedModel, header: Callable[[str], str | None], body: AsyncIterable[bytes]
    ) -> Answer:
        if header("content-encoding") not in (None, "identity"):
            raise RequestError(
                415, f"content-encoding {header('content-encoding')!r} is not understood; send plain JSON"
            )
        if header("inference-header-content-length") is not None:
            raise RequestError(
                400, "Inference-Header-Content-Length: binary tensors are not understood; send JSON data"
            )
        data = await _whole(header("content-length"), body)
        if len(data) <= _INLINE_BODY and model.seconds <= _INLINE_SECONDS:
            return _infer(call, model, data)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _infer, call, model, data)


def _infer(call: Call, model: LoadedModel, data: bytes) -> Answer:
    try:
        request = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None
    started = time.perf_counter()
    answer = model.infer(request)
    call.computed = time.perf_counter() - started
    call.items = request["inputs"][0]["shape"][0] if request["inputs"][0]["shape"] else 1
    call.batch = call.items
    return _json(200, answer)


def request_id(given: str | None) -> str:
    """The client's own id of its request when it is short and plain, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


async def _whole(length: str | None, body: AsyncIterable[bytes]) -> bytes:
    """The body, at most MAX_BODY bytes, within BODY_TIMEOUT_S."""
    too_big = RequestError(413, f"the body is bigger than {MAX_BODY >> 20} MiB; send the batch in parts")
    if length is not None and length.isdecimal() and int(length) > MAX_BODY:
        raise too_big
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in body:
                size += len(chunk)
                if size > MAX_BODY:
                    raise too_big
                chunks.append(chunk)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    except RuntimeError as error:  # granian's own, for a body that breaks off or a chunk that is none
        raise RequestError(400, f"the body cannot be read: {error}") from None
    return b"".join(chunks)


def _version_and_verb(rest: list[str], path: str) -> tuple[str | None, str]:
    match rest:
        case []:
            return None, ""
        case ["infer" | "ready" as verb]:
            return None, verb
        case ["versions", version]:
            return version, ""
        case ["versions", version, "infer" | "ready" as verb]:
            return version, verb
    raise _no_path(path)


def _name_and_version(rest: list[str], path: str) -> tuple[str, str | None]:
    """Of ``<model>:predict`` or ``<model>/versions/<version>:predict``."""
    match [*rest[:-1], rest[-1].removesuffix(":predict")]:
        case [name]:
            return name, None
        case [name, "versions", version]:
            return name, version
    raise _no_path(path)


def _file(name: str, path: str) -> Answer:
    found = site.file(name)
    if found is None:
        raise _no_path(path)
    return Answer(200, *found)


def _no_path(path: str) -> RequestError:
    return RequestError(404, f"there is no {path[:200]!r} here; see GET /v2 and /v2/models/<model>/infer")


def _only(method: str, allowed: str) -> None:
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        allow = "GET, HEAD" if allowed == "GET" else allowed
        raise RequestError(405, f"{method} is not for this path; use {allowed}", [("allow", allow)])


def _json(status: int, value: Any) -> Answer:
    return Answer(status, orjson.dumps(value), [("content-type", "application/json")])
