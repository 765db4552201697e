"""The endpoint's process: granian's RSGI server in this process's own event loop.

Granian's embedded server, not its supervisor, whose workers live on and keep the port when it is killed; several
processes are ``processes.run``'s.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from nightshift.releases.ledger import Ledger
from nightshift.releases.registry import Registry
from nightshift.releases.signing import Trust
from nightshift.releases.store import open_store
from nightshift.serving import guard as guards
from nightshift.serving import logs, processes
from nightshift.serving.engine import Engine
from nightshift.serving.follow import Follower
from nightshift.serving.front import Front
from nightshift.serving.inference import Inference
from nightshift.serving.logs import AccessLog
from nightshift.serving.processes import Peers
from nightshift.serving.rest import Rest
from nightshift.serving.samples import Plan
from nightshift.serving.watch import Watch

log = logging.getLogger("nightshift.serving")


@dataclass(frozen=True)
class Settings:
    """What one endpoint is told. ``registry`` is a bucket or folder, ``copies`` keeps whole releases by digest.

    ``checkout`` is told in /status, so that a stack knows its own endpoint; ``tls`` is a certificate and its key;
    ``count`` the number of processes; ``plan`` says which samples are kept; ``trust`` whose
    signature a release must have.
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
    front = Front(engine, follower, guard, inference, (guard.watch, follower.tallies.watch, *watch.watchers))
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
    server = Server(
        _app(rest),
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        log_enabled=False,
        ssl_cert=tls[0] if tls else None,
        ssl_key=tls[1] if tls else None,
    )

    def stop() -> None:
        log.info("stopping: requests under way are answered first")
        server.stop()  # closes the listener, then waits for the connections

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
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
    log.info("stopped")


def _app(rest: Rest) -> Any:
    """Granian's RSGI callback: translates, nothing else."""

    async def app(scope: Any, proto: Any) -> None:
        headers = scope.headers
        answer = await rest.answer(scope.method, scope.path, headers.get, proto)
        proto.response_bytes(answer.status, answer.headers, answer.body)

    return app
