"""The Open Inference Protocol v2 over REST: method, path, headers and body to an answer. No server in here."""

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as package_version
from typing import Any

import orjson

from nightshift.releases.manifest import Manifest
from nightshift.serving import bodies, openapi, people, protocol, site
from nightshift.serving.bodies import Body
from nightshift.serving.call import Call
from nightshift.serving.exchange import Answer, Request
from nightshift.serving.forms import FORMS, remember
from nightshift.serving.front import Front, failed
from nightshift.serving.model import LoadedModel
from nightshift.serving.request_ids import request_id
from nightshift.serving.tensors import MANY, RequestError
from nightshift.serving.watch import Watch

_LONG_ANSWER = 1 << 18  # bytes of an answer whose compression would hold up everybody in the event loop
_STALLED_S = 0.5
_LONGEST = 1000  # characters of a fault, whatever it quotes; as gRPC has it

log = logging.getLogger("nightshift.serving")


class Rest:
    """``about`` adds what the process knows of itself (registry, checkout) to /status."""

    def __init__(self, front: Front, watch: Watch, about: Mapping[str, Any]):
        self.front = front
        self.engine, self.follower = front.engine, front.follower
        self.guard, self.inference = front.guard, front.inference
        self.watch = watch
        self.about = dict(about)
        self._reader = people.Reader()
        self._asked: dict[str, tuple[str, str | None]] = {}  # the name and version in paths that were asked to infer
        # One at a time: as Python's objects a document can take 35 times its length.
        self._big = ThreadPoolExecutor(1, thread_name_prefix="bodies")

    async def answer(self, request: Request) -> None:
        """Never raises: a fault of the client is 4xx with {"error": "…"}."""
        header = request.header
        call = Call(request_id(header("x-request-id")), "rest", "", time.perf_counter())
        try:
            try:
                if request.fault:
                    raise request.fault
                result = await self._route(request, call)
            except RequestError as error:
                result = _refusal(error, call)
            except Exception as error:
                log.exception("request %s failed", call.id)
                result = _refusal(failed(call, error), call)
            call.status, call.sent = result.status, len(result.body)
            if call.model and call.status not in (401, 403, 421):
                # Every answer of a model, a refusal too, names the digest that gave it.
                result.headers += [
                    ("nightshift-model", call.model.name),
                    ("nightshift-digest", call.model.digest),
                    ("nightshift-role", call.role),
                ]
            result.headers += [("x-request-id", call.id), *self.guard.hosts.cors(header)]
            request.answer(result)
        finally:
            self.front.end(call)

    async def _route(self, request: Request, call: Call) -> Answer:
        method, path, header = request.method, request.path, request.header
        if method == "POST" and (asked := self._asked.get(path)):
            call.verb = "infer"
            return await self._infer(call, self.front.find(call, *asked, header), request)
        if method == "OPTIONS" and self.guard.hosts.cors(header):
            return Answer(204, b"")  # the headers that a page of another origin asks for stand in every answer
        match path.removeprefix("/").split("/"):
            case ["v2", "models", name, *rest] if name != "stats" or rest:
                version_, verb = _version_and_verb(rest, path)
                _only(method, "POST" if verb == "infer" else "GET")
                call.verb = verb or "metadata"
                if verb == "stats":
                    found = await self.front.statistics_of(call, name, version_, header)
                    return _json(200, {"model_stats": found})
                model = self.front.find(call, name, version_, header)
                if verb == "infer":
                    remember(self._asked, path, (name, version_), FORMS)
                    return await self._infer(call, model, request)
                if verb == "ready":
                    return _json(200, {"name": model.name, "ready": True})
                return _json(200, model.config() if verb == "config" else model.metadata())
            case ["v2", "models", "stats"]:
                _only(method, "GET")
                call.verb = "stats"
                return _json(200, {"model_stats": await self.front.statistics_of(call, None, None, header)})
            case ["v2", "health", "live"]:
                _only(method, "GET")
                return _json(200, {"live": True})
            case ["v2", "health", "ready"]:
                _only(method, "GET")
                if not await self.front.is_ready():
                    raise RequestError(503, "not ready: nothing is loaded yet")
                return _json(200, {"ready": True})
            case ["v2"] | ["v2", ""]:  # the protocol writes a slash, its clients do not
                _only(method, "GET")
                return _json(200, self.front.server(call, header))
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
                served = self._served(call)
                return _json(200, openapi.document(served, package_version("nightshift-ml"), self.guard.required))
            case ["v1", "models"]:
                _only(method, "GET")
                self.guard.enter(call, "infer", header)
                return _json(200, {"models": [people.about(*each) for each in self._served(call).values()]})
            case ["v1", "models", *rest] if rest[-1].endswith(":predict"):
                _only(method, "POST")
                call.verb = "predict"
                model = self.front.find(call, *_name_and_version(rest, path), header)
                return await self._predict(call, model, request)
            case ["v2", "repository", "index"]:
                _only(method, "POST")
                call.verb = "index"
                return _json(200, self.front.index(call, header))
            case ["v2", "repository", "models", _, "load" | "unload" as verb]:
                _only(method, "POST")
                call.verb = verb
                raise self.front.refuse_change(call, header)
        raise _no_path(path)

    def _served(self, call: Call) -> dict[str, tuple[Manifest, list[tuple[str, str]]]]:
        """Of each model that the caller may ask, its manifest and the loaded digests with their roles."""
        every = [served for name in self.front.names(call) if (served := self.engine.served(name))]
        return {
            served.champion.name: (
                served.champion.manifest,
                list(zip((model.digest for model in served.loaded), ("champion", "canary"), strict=False)),
            )
            for served in every
        }

    async def _admitted(self, call: Call, request: Request) -> bytes:
        """The body, inflated, of a request that is let in at its headers; who sends it slowly gives the place back
        meanwhile.
        """
        body: Body = request.body
        self.inference.admit(call)
        if body.whole:
            data = await body.read(call, self.front.room)
        else:
            stalled = asyncio.get_running_loop().call_later(_STALLED_S, self.inference.leave, call)
            try:
                data = await body.read(call, self.front.room)
            finally:
                stalled.cancel()
        call.received, call.arrived = len(data), time.perf_counter()
        if call.lane is None:
            self.inference.admit(call)
        if (encoding := request.header("content-encoding")) is not None:
            data = await bodies.inflated(data, encoding, call, self.front.room)
        return data

    async def _predict(self, call: Call, model: LoadedModel, request: Request) -> Answer:
        data = await self._admitted(call, request)
        arrays, items = await self._reader.read(model.manifest, request.header("content-type") or "", data)
        results = await self.inference.run(call, arrays, list(model.outputs))
        outputs = dict(zip(model.outputs, results, strict=True))
        said = {"model": model.name, "version": model.version, "digest": model.digest, "role": call.role}

        def told() -> Answer:
            predictions = people.tell(model.manifest, outputs, items)
            return _json(200, {**said, "seconds": time.perf_counter() - call.started, "predictions": predictions})

        return await asyncio.to_thread(told) if sum(each.size for each in results) > MANY else told()

    async def _infer(self, call: Call, model: LoadedModel, request: Request) -> Answer:
        header = request.header
        json_length = _json_length(header("inference-header-content-length"))
        data = await self._admitted(call, request)
        if len(data) > bodies.LONG:
            loop = asyncio.get_running_loop()
            asked = await loop.run_in_executor(self._big, _read_big, data, json_length, model)
        else:
            asked = protocol.read(data, json_length, model)
        del data  # what waits needs its numbers only, and the next body finds this one's place still in the caches
        results = await self.inference.run(call, asked.arrays, asked.form.names, asked.form.timeout)
        if protocol.writes(asked, results) > MANY:
            text, length = await asyncio.to_thread(protocol.write, asked, model, results)
        else:
            text, length = protocol.write(asked, model, results)
        if length is None:
            headers = [("content-type", "application/json")]
        else:
            headers = [("content-type", "application/octet-stream"), ("inference-header-content-length", str(length))]
        if (accepted := header("accept-encoding")) is not None:
            if len(text) > _LONG_ANSWER:
                text, how = await asyncio.to_thread(bodies.deflate, text, accepted)
            else:
                text, how = bodies.deflate(text, accepted)
            headers += [("content-encoding", how), ("vary", "accept-encoding")] if how else []
        return Answer(200, text, headers)


def _read_big(data: bytes, json_length: int | None, model: LoadedModel) -> protocol.Asked:
    try:
        return protocol.read(data, json_length, model)
    except RequestError as error:
        raise error.with_traceback(None) from None  # whose frames would hold all that was read beside the next one


def _json_length(given: str | None) -> int | None:
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) < 16):
        raise RequestError(400, f"Inference-Header-Content-Length is {given[:40]!r}, must be a number of bytes")
    return int(given)


def _refusal(error: RequestError, call: Call) -> Answer:
    call.error = error.message if len(error.message) <= _LONGEST else error.message[:_LONGEST] + "…"
    result = _json(error.status, {"error": call.error})
    result.headers += error.headers
    return result


def _version_and_verb(rest: list[str], path: str) -> tuple[str | None, str]:
    match rest:
        case []:
            return None, ""
        case ["infer" | "ready" | "config" | "stats" as verb]:
            return None, verb
        case ["versions", version]:
            return version, ""
        case ["versions", version, "infer" | "ready" | "config" | "stats" as verb]:
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
