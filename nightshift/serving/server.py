"""The endpoint's process: granian's RSGI server in this process's own event loop.

Granian's embedded server, not its supervisor, whose workers live on and keep the port when it is killed; several
processes are ``processes.run``'s.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from nightshift.releases.ledger import Ledger
from nightshift.releases.registry import Registry
from nightshift.releases.signing import Trust
from nightshift.releases.store import open_store
from nightshift.serving import bodies, logs, processes
from nightshift.serving import guard as guards
from nightshift.serving.door import TOO_MUCH
from nightshift.serving.engine import Engine
from nightshift.serving.follow import Follower
from nightshift.serving.front import Front
from nightshift.serving.inference import Inference
from nightshift.serving.logs import AccessLog
from nightshift.serving.processes import Peers
from nightshift.serving.request_ids import request_id
from nightshift.serving.rest import Rest
from nightshift.serving.samples import Plan
from nightshift.serving.statistics import Statistics
from nightshift.serving.watch import Watch

_CONNECTIONS = 2048  # that one process accepts; more wait in the kernel's queue, which holds as many again
_OTHER_FILES = 256
_CLOSE = ("connection", "close")
_REFUSED = orjson.dumps({"error": TOO_MUCH})
_BUFFER = 64 << 10  # bytes that the server reads of a connection at once, and keeps for it; the longest headers

log = logging.getLogger("nightshift.serving")


@dataclass(frozen=True)
class Settings:
    """What one endpoint is told. ``registry`` is a bucket or folder, ``copies`` keeps whole releases by digest.

    ``checkout`` is told in /status, so that a stack knows its own endpoint; ``tls`` is a certificate and its key;
    ``count`` the number of processes; ``plan`` says which samples are kept; ``trust`` whose signature a release must
    have.
    """

    registry: str
    host: str
    port: int
    copies: Path
    checkout: str | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    tls: tuple[Path, Path] | None = None
    grpc_port: int | None = None
    count: int = 1
    log_level: str = "info"
    log_json: bool | None = None
    plan: Plan = field(default_factory=Plan)
    trust: Trust | None = None


def serve(settings: Settings) -> int:
    """Serve what the ledger wants until SIGTERM or SIGINT; returns an exit status."""
    access = logs.set_up(settings.log_level, settings.log_json)
    return processes.run(settings.count, lambda peers: _work(peers, settings, access))


def _work(peers: Peers, settings: Settings, access: AccessLog) -> None:
    """All that one process does."""
    store = open_store(settings.registry)
    engine = Engine()
    follower = Follower(Registry(store), Ledger(store), engine, settings.copies, peers, settings.trust)
    guard = guards.make(
        settings.registry, settings.host, settings.port, settings.copies, settings.hosts, settings.origins
    )

    def refresh() -> None:
        guard.refresh()
        follower.refresh()

    peers.answers["refresh"] = refresh
    inference = Inference()
    watch = Watch(follower, inference, access, guard.usage.store, guard.usage.instance, settings.plan)
    statistics = Statistics(peers)
    watchers = (guard.watch, follower.tallies.watch, statistics.watch, *watch.watchers)
    front = Front(engine, follower, guard, inference, watchers, statistics)
    watch.metrics.facts.append(front.door.facts)
    rest = Rest(front, watch, {"registry": store.url, "checkout": settings.checkout})
    uvloop.run(_serve(rest, settings))


def is_taken(host: str, port: int) -> bool:
    """Whether something listens there. Granian would share the port with it (SO_REUSEPORT) and nobody would notice."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


async def _serve(rest: Rest, settings: Settings) -> None:
    follower, guard = rest.follower, rest.guard
    host, port, tls = settings.host, settings.port, settings.tls
    connections = _connections()
    server = Server(
        _app(rest),
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=_CONNECTIONS,
        backpressure=connections,
        http1_settings=HTTP1Settings(max_buffer_size=_BUFFER),
        log_enabled=False,
        ssl_cert=tls[0] if tls else None,
        ssl_key=tls[1] if tls else None,
    )

    def stop() -> None:
        log.info("stopping: requests under way are answered first")
        doorkeeper.cancel()
        server.stop()  # closes the listener, then waits for the connections

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    doorkeeper = loop.create_task(rest.front.door.watch(host, port, tls is not None, connections))
    await follower.peers.listen()
    follower.start()
    guard.start()
    rest.watch.start()
    log.info("endpoint at %s://%s:%d follows %s", "https" if tls else "http", host, port, rest.about["registry"])
    async with contextlib.AsyncExitStack() as beside:
        if settings.grpc_port:
            from nightshift.serving import grpc_server  # only if it is asked for, and after a fork

            rpc = grpc_server.Grpc(rest.front)
            await beside.enter_async_context(grpc_server.listening(rpc, host, settings.grpc_port, tls))
        await server.serve()
    follower.stop()
    guard.stop()
    rest.watch.stop()
    for number in (signal.SIGTERM, signal.SIGINT):  # who asks once more must not kill what has ended well
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    log.info("stopped")


def _connections() -> int:
    """How many connections this process may hold: each is an open file, of which it allows itself more if it can."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, most = (limit if limit != resource.RLIM_INFINITY else 1 << 20 for limit in limits)
    if allowed < _CONNECTIONS + _OTHER_FILES:
        allowed = min(_CONNECTIONS + _OTHER_FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, limits[1]))
    return max(1, min(_CONNECTIONS, allowed - _OTHER_FILES))


def _app(rest: Rest) -> Any:
    """Granian's RSGI callback: translates, and refuses at the door."""
    door = rest.front.door

    async def app(scope: Any, proto: Any) -> None:
        headers, path = scope.headers, scope.path
        if path.endswith(("/infer", ":predict")):
            if door.refuses():
                await bodies.drain(headers.get("content-length"), proto)
                identity = ("x-request-id", request_id(headers.get("x-request-id")))
                said = [("content-type", "application/json"), ("retry-after", "1"), identity]
                proto.response_bytes(503, [*said, _CLOSE] if door.crowded else said, _REFUSED)
                return
        elif path == door.path:
            door.turn()
            proto.response_empty(204, [])
            return
        answer = await rest.answer(scope.method, path, headers.get, proto)
        if door.crowded:
            answer.headers.append(_CLOSE)
        proto.response_bytes(answer.status, answer.headers, answer.body)

    return app
