"""Machines whose clocks are wrong, or are set while they work: the ledger goes by its store's clock."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightshift.releases.clock import Clock
from nightshift.releases.ledger import Ledger
from nightshift.releases.promotion import promote
from nightshift.releases.store import open_store
from tests.serving.world import KEY, Endpoint, World, free_port, wait_for

HOUR = 3600.0
# The whole process has a clock that is off by the first number, and by the second from its third look on.
WRONG = """
import datetime, itertools, sys, time
real, wall, looks = datetime.datetime, time.time, itertools.count()
def off():
    return float(sys.argv[1 if next(looks) < 2 else 2])
class Wrong(real):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=off())
datetime.datetime, time.time = Wrong, lambda: wall() + off()

import json
from nightshift.releases.collect import survey
from nightshift.releases.ledger import Ledger
from nightshift.releases.promotion import promote
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
assert abs((Wrong.now(datetime.UTC) - real.now(datetime.UTC)).total_seconds() - float(sys.argv[1])) < 60
store = open_store(sys.argv[3])
asked = json.loads(sys.argv[4])
if "digest" in asked:
    promote(Registry(store), Ledger(store), reason="r", evidence={}, say=lambda line: print(line, flush=True), **asked)
else:
    print([found.needed for found in survey(Registry(store), Ledger(store), orders=0, opponents={}, **asked)])
"""


def wrong(world: World, off: float, then: float | None = None, **asked: Any) -> subprocess.Popen[str]:
    """A process of another machine, whose clock is ``off`` by so many seconds, and soon by ``then``."""
    numbers = [str(off), str(off if then is None else then)]
    return subprocess.Popen(
        [sys.executable, "-c", WRONG, *numbers, world.store.url, json.dumps(asked)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Endpoint]]:
    world = World(tmp_path_factory.mktemp("clocks"))
    endpoint = world.endpoint().start()
    endpoint.wait_alive()
    yield world, endpoint
    endpoint.stop()
    endpoint.client.close()


@pytest.fixture(autouse=True)
def _as_whoever_deploys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", KEY)


@pytest.mark.parametrize("off", [-HOUR, HOUR])
def test_an_order_of_a_writer_whose_clock_is_wrong_has_its_whole_time_and_nobody_settles_it(
    running: tuple[World, Endpoint], off: float
) -> None:
    world, endpoint = running
    model = f"order{off:.0f}".replace("-", "m")
    slow, other = world.publish(0, model=model), world.publish(1, model=model)
    away = f"http://127.0.0.1:{free_port()}"
    asked = {"model": model, "digest": slow, "what": "promote", "who": "kim", "deadline_s": 120, "endpoints": [away]}
    night = {"model": model, "digest": other, "what": "deploy", "who": "night", "deadline_s": 60}
    with wrong(world, off, **asked) as writer:
        wait_for(lambda: world.ledger.orders(model))
        with wrong(world, -off, **night, endpoints=[endpoint.url]) as waiting:
            assert waiting.stdout
            said = {waiting.stdout.readline() for _ in range(4)}
            assert said == {"waiting for the outcome of order 1 of kim\n"}
            result = promote(world.registry, Ledger(world.store), model, other, endpoints=[endpoint.url], who="kim",
                             what="promote", reason="r", evidence={}, deadline_s=60)  # fmt: skip
            assert result.state == "proven"
            output, _ = waiting.communicate(timeout=100)
            assert waiting.returncode == 0, output
        output, _ = writer.communicate(timeout=100)
        assert writer.returncode == 0, output
    (first, outcome), (second, _) = world.ledger.history(model)
    assert outcome
    assert outcome.state == "superseded"
    assert abs(datetime.now(UTC) - first.ordered_at) < timedelta(minutes=30)
    assert first.ordered_at <= second.ordered_at


@pytest.mark.parametrize("then", [-HOUR, HOUR])
def test_a_clock_that_is_set_while_replicas_are_asked_neither_ends_nor_prolongs_it(
    running: tuple[World, Endpoint], then: float
) -> None:
    world, _ = running
    model = f"set{then:.0f}".replace("-", "m")
    digest = world.publish(2, model=model)
    away = f"http://127.0.0.1:{free_port()}"
    asked = {"model": model, "digest": digest, "what": "promote", "who": "kim", "deadline_s": 2, "endpoints": [away]}
    with wrong(world, 0, then, **asked) as writer:
        output, _ = writer.communicate(timeout=200)
    assert writer.returncode == 0, output
    ((order, outcome),) = world.ledger.history(model)
    assert outcome
    assert (outcome.state, outcome.fault) == ("refused", "endpoint")
    assert outcome.at - order.ordered_at >= timedelta(seconds=1)


def test_gc_on_a_machine_that_is_a_year_ahead_takes_nothing_young(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish()
    with wrong(world, 365 * 24 * HOUR, days=30) as gc:
        output, _ = gc.communicate()
    assert output.strip() == "['young']"


def test_the_time_is_the_stores_on_s3_too(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{s3.work}/clocks-{datetime.now(UTC):%f}")
    clock = Clock(store)
    monkeypatch.setattr("nightshift.releases.clock.datetime", None)
    assert abs(clock() - datetime.now(UTC)) < timedelta(seconds=60)
    assert clock() <= clock()
    assert store.list("") == []
