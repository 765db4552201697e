"""A registry in a folder and real endpoint processes on it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from nightshift.releases.ledger import Ledger, Order, Outcome, now
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
from nightshift.serving.keys import digest
from nightshift.stack.processes import free_ports
from tests.releases.make import make_release

KEY = "nsk_of-whoever-deploys"
ADMIN = {"Authorization": f"Bearer {KEY}"}


_drawn: set[int] = set()


def free_port() -> int:
    """One that no outgoing connection of a busy machine takes before the server that is to have it starts, and that no
    other server of these tests was given.
    """
    (port,) = free_ports(1, taken=_drawn)
    _drawn.add(port)
    return port


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of ``what``; fails with its last value when the time is over."""
    until = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds} s in vain, last: {value!r}")
        time.sleep(0.05)


class World:
    """Publishes releases and orders them without proof; ``endpoint`` makes a process that is not started yet."""

    def __init__(self, folder: Path, url: str | None = None):
        self.folder = folder
        self.store = open_store(url or str(folder / "registry"))
        self.registry = Registry(self.store)
        self.ledger = Ledger(self.store)
        self._made = 0

    def publish(self, seed: int = 0, **settings: Any) -> str:
        self._made += 1
        folder = self.folder / f"release-{self._made}"
        make_release(folder, seed=seed, **settings)
        return self.registry.publish(folder)

    def order(
        self, digest: str, state: Any = None, model: str = "toy", deadline_s: float = 60, **settings: Any
    ) -> Order:
        """Put an order and, if told, its outcome."""
        defaults: dict[str, Any] = {"who": "test", "what": "promote", "reason": "a test", "evidence": {}}
        try:
            model_digest = self.registry.manifest(model, digest).model_digest
        except Exception:
            model_digest = digest  # a test that orders what is not there
        order = self.ledger.order(
            model,
            digest=digest,
            model_digest=model_digest,
            deadline=timedelta(seconds=deadline_s),
            **{**defaults, **settings},
        )
        if state:
            self.ledger.settle(order, Outcome(state=state, reason="a test", at=now()))
        return order

    def endpoint(
        self, environment: Mapping[str, str] | None = None, copies: str = "copies", options: Sequence[str] = ()
    ) -> "Endpoint":
        return Endpoint(self.store.url, self.folder / copies, environment or {}, options)


@contextmanager
def serving(world: World, digests: Mapping[str, str]) -> "Iterator[Endpoint]":
    """An endpoint that serves these releases, by model."""
    for name, digest_ in digests.items():
        world.order(digest_, "proven", model=name)
    with world.endpoint() as endpoint:
        for name, digest_ in digests.items():
            endpoint.wait_serving(digest_, name)
        yield endpoint


class Endpoint:
    """`nightshift serve` as a child process; `with` starts it and ends it."""

    def __init__(self, registry: str, copies: Path, environment: Mapping[str, str], options: Sequence[str] = ()):
        self.registry, self.copies, self.options = registry, copies, options
        self.environment = {**os.environ, "NIGHTSHIFT_ENDPOINT_KEY_SHA256": digest(KEY), **environment}
        self.port, self.grpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=10)
        self.log = copies.parent / f"endpoint-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Endpoint":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.client.close()

    def start(self) -> "Endpoint":
        command = [sys.executable, "-m", "nightshift.cli.main", "serve", "--registry", self.registry]
        command += [
            "--port",
            str(self.port),
            "--grpc-port",
            str(self.grpc_port),
            "--cache",
            str(self.copies),
            *self.options,
        ]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(15)
        finally:
            if self.process.poll() is None:
                self.process.kill()

    def status(self) -> dict[str, Any]:
        return dict(self.client.get("/status", headers=ADMIN).json())

    def of(self, model: str = "toy") -> dict[str, Any]:
        try:
            return dict(self.status()["models"].get(model) or {})
        except httpx.HTTPError:
            return {}

    def refresh(self) -> None:
        self.client.post("/refresh", headers=ADMIN).raise_for_status()

    def wait_serving(self, digest: str, model: str = "toy", seconds: float = 15.0) -> None:
        wait_for(lambda: self.of(model).get("serving") == digest, seconds)

    def wait_refused(self, digest: str, model: str = "toy") -> str:
        wait_for(lambda: (self.of(model).get("refused") or {}).get("digest") == digest)
        return str(self.of(model)["refused"]["reason"])

    def wait_alive(self) -> None:
        wait_for(lambda: self.answers("/v2/health/live"))

    def answers(self, path: str) -> bool:
        try:
            return self.client.get(path).status_code == 200
        except httpx.HTTPError:
            return False

    def infer(self, model: str = "toy", version: str | None = None, **body: Any) -> httpx.Response:
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        return self.client.post(path, json=body or {"inputs": [IMAGE]})


IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": list(range(48))}


def golden_of(world: World, digest: str, model: str = "toy") -> dict[str, Any]:
    return dict(json.loads(world.registry.read(model, digest, "golden.json")))
