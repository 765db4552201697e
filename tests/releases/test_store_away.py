"""The S3 server goes away between an order and its outcome: what was ordered is proven once it is back."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightshift.releases.errors import StoreUnavailable
from nightshift.releases.ledger import Ledger
from nightshift.releases.promotion import Result, promote
from nightshift.stack import s3 as s3_server
from nightshift.stack.processes import Processes
from tests.conftest import make_s3
from tests.serving.world import KEY, World, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


class Away:
    """A server of its own, which a test may stop, and what is published there."""

    def __init__(self, folder: Path):
        self.processes, self.server = Processes(folder), make_s3(folder)
        self.server.start(self.processes)

    def signal(self, number: int) -> None:
        pid = self.processes.running("s3")
        assert pid
        os.kill(pid, number)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    made = Away(tmp_path / "server")
    for name, value in made.server.environment("admin").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", KEY)
    yield made
    if pid := made.processes.running("s3"):
        os.kill(pid, signal.SIGCONT)
    made.processes.stop("s3")


def ordering(world: World, digest: str, url: str, came: list[Any]) -> threading.Thread:
    """A person's order of this release, going on beside the test: its result, or what it raised."""

    def work() -> None:
        try:
            came.append(
                promote(
                    world.registry,
                    Ledger(world.store),
                    "toy",
                    digest,
                    endpoints=[url],
                    who="kim",
                    what="promote",
                    reason="r",
                    evidence={},
                    deadline_s=120,
                )
            )
        except StoreUnavailable as error:
            came.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: world.ledger.orders("toy"))
    return thread


@pytest.mark.parametrize("how", ["stands still", "is killed"])
def test_an_order_outlives_the_store(away: Away, tmp_path: Path, how: str) -> None:
    world = World(tmp_path, f"s3://{s3_server.REGISTRY}/toy")
    digest, endpoint = world.publish(), world.endpoint()
    came: list[Any] = []
    order = ordering(world, digest, endpoint.url, came)
    away.signal(signal.SIGSTOP if how == "stands still" else signal.SIGKILL)
    endpoint.start()
    if how == "stands still":
        time.sleep(5)
        away.signal(signal.SIGCONT)
        order.join()
    else:
        order.join()
        assert isinstance(came.pop(), StoreUnavailable)
        away.server.start(away.processes)
        assert [outcome for _, outcome in world.ledger.history("toy")] == [None]
        order = ordering(world, digest, endpoint.url, came)
        order.join()
    (result,) = came
    assert isinstance(result, Result)
    assert (result.state, endpoint.of()["serving"]) == ("proven", digest)
    states = [outcome and outcome.state for _, outcome in world.ledger.history("toy")]
    assert states == (["proven"] if how == "stands still" else ["superseded", "proven"])
    assert endpoint.infer().headers["nightshift-digest"] == digest
    endpoint.stop()
