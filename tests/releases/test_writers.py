"""Fifty writers at once, and writers killed anywhere: one total order, none lost, none doubled, no hole.

Real processes on a folder and on the real S3 server; each says what became of its order, and the ledger must agree.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from nightshift.releases.ledger import Ledger
from nightshift.releases.manifest import short
from nightshift.releases.store import open_store
from nightshift.releases.verify import check
from tests.serving.world import KEY, Endpoint, World, wait_for

WRITER = """
import json, os, sys, threading
from datetime import timedelta
from nightshift.releases import ledger as ledgers
from nightshift.releases.ledger import Ledger, Outcome, now
from nightshift.releases.store import open_store

url, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()

def write(number):
    ledger = Ledger(open_store(url))
    digest = f"{number:064x}"
    order = ledger.order("toy", digest=digest, model_digest=digest, who=f"writer {number}", what="promote",
                         reason="r", evidence={}, deadline=timedelta(minutes=1))
    newer = ledger.newest("toy")
    state = "superseded" if newer.sequence > order.sequence else "proven"
    outcome = ledger.settle(order, Outcome(state=state, reason=f"by writer {number}", at=now()))
    print(json.dumps({"writer": number, "sequence": order.sequence, "state": outcome.state}), flush=True)

threads = [threading.Thread(target=write, args=(first + n,)) for n in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def start(url: str, first: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(first), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fifty(url: str) -> None:
    """Ten processes of five writers each, let go together."""
    processes = [start(url, 5 * number, 5) for number in range(10)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert (process.returncode, err) == (0, ""), "a thread that fails says so there only"
        told += [json.loads(line) for line in out.splitlines()]
    store = open_store(url)
    history = Ledger(store).history("toy")
    assert [order.sequence for order, _ in history] == list(range(1, 51))
    assert {(order.who, order.sequence, outcome.state) for order, outcome in history if outcome} == {
        (f"writer {each['writer']}", each["sequence"], each["state"]) for each in told
    }
    assert len({order.who for order, _ in history}) == len({order.id for order, _ in history}) == 50
    assert history[-1][1].state == "proven", "nobody is newer than the last"
    assert check(store, None, None) == []


def test_fifty_writers_on_a_folder(tmp_path: Path) -> None:
    fifty(str(tmp_path / "registry"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_writers_on_s3(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("deployer").items():
        monkeypatch.setenv(name, value)
    fifty(f"s3://{s3.registry}/writers-{uuid4().hex}")


KILLED = """
import os, sys
from nightshift.releases.ledger import Ledger
from nightshift.releases.promotion import promote
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store

store = open_store(sys.argv[1])
number = 0
print("ready", flush=True)
while True:
    number += 1
    result = promote(Registry(store), Ledger(store), "toy", sys.argv[2 + number % 2], endpoints=[sys.argv[4]],
                     who=f"pid {os.getpid()} order {number}", what="promote", reason="r", evidence={}, deadline_s=20)
    print(result.order.sequence, result.state, flush=True)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Endpoint]]:
    world = World(tmp_path_factory.mktemp("writers"))
    with world.endpoint() as endpoint:
        endpoint.wait_alive()
        yield world, endpoint


def kills(world: World, endpoint: Endpoint, rounds: int) -> None:
    """Writers that order the one release and the other, two at a time, each killed at a random moment of its work."""
    digests = [world.publish(0), world.publish(1)]
    chance = random.Random(7)
    told: dict[int, str] = {}
    for _ in range(rounds):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", KILLED, world.store.url, *digests, endpoint.url],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"NIGHTSHIFT_ENDPOINT_KEY": KEY},
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        wanted = len(Ledger(world.store).orders("toy")) + chance.randint(1, 5)
        wait_for(lambda wanted=wanted: len(Ledger(world.store).orders("toy")) >= wanted, 120)
        time.sleep(chance.uniform(0, 0.3))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            said, _ = writer.communicate()
            told |= {int(line.split()[0]): line.split()[1] for line in said.splitlines() if line.count(" ") == 1}
        history = Ledger(world.store).history("toy")
        assert [order.sequence for order, _ in history] == list(range(1, len(history) + 1))
        assert check(world.store, None, None) == [], "what is there is whole, whoever died"
    history = Ledger(world.store).history("toy")
    states = {order.sequence: outcome.state for order, outcome in history if outcome}
    assert told.items() <= states.items(), "what a writer was told is what the ledger says"
    assert len({order.id for order, _ in history}) == len(history)
    # The next writer is stopped by nothing that they left, and the endpoint serves what it orders.
    done = subprocess.run(
        [sys.executable, "-m", "nightshift.cli.main", "promote", "toy", short(digests[0]), "--reason", "after them"],
        env=os.environ | {"NIGHTSHIFT_REGISTRY": world.store.url, "NIGHTSHIFT_ENDPOINTS": endpoint.url,
                          "NIGHTSHIFT_ENDPOINT_KEY": KEY},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert Ledger(world.store).live("toy").digest == digests[0]
    assert all(outcome for _, outcome in Ledger(world.store).history("toy")), "every order has an outcome now"
    wait_for(lambda: endpoint.of("toy").get("serving") == digests[0], 60)


def test_writers_killed_anywhere_leave_no_hole_in_a_folder(running: tuple[World, Endpoint]) -> None:
    kills(*running, rounds=3)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_writers_killed_anywhere_leave_no_hole_on_s3(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("deployer").items():
        monkeypatch.setenv(name, value)
    world = World(tmp_path, f"s3://{s3.registry}/kills-{uuid4().hex}")
    endpoint = world.endpoint().start()
    try:
        endpoint.wait_alive()
        kills(world, endpoint, rounds=12)
    finally:
        endpoint.stop()
        endpoint.client.close()
