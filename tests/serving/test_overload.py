"""Five times what it can do: what is accepted is answered soon, all else is refused at once."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from nightshift.serving.inference import WAIT_S
from tests.serving.slow_release import ROW, make_slow_release
from tests.serving.world import Endpoint, World

pytestmark = pytest.mark.long


@pytest.mark.timeout(600)
def test_a_fast_model_answers_or_refuses_everybody_in_time(world: World, start) -> None:
    """Its requests run in the event loop, where nobody can count what waits in the sockets."""
    make_slow_release(world.folder / "slow", layers=60)  # about a millisecond
    digest = world.registry.publish(world.folder / "slow")
    world.order(digest, "proven", model="slow")
    endpoint: Endpoint = start(options=("--log-level", "warning"))
    endpoint.wait_serving(digest, "slow")
    assert endpoint.process
    process = psutil.Process(endpoint.process.pid)
    overload(endpoint, world.folder, 2500, 6)  # whatever grows once, grows now
    resident = process.memory_info().rss
    found = overload(endpoint, world.folder, 2500, 10)
    counts, taken = found["counts"], found["taken"]
    print(f"{counts}; p50 {taken[len(taken) // 2] * 1e3:.0f} ms, p99 {taken[int(len(taken) * 0.99)] * 1e3:.0f} ms, "
          f"{found['seconds']:.1f} s")  # fmt: skip
    assert set(counts) <= {"200", "503"}, counts  # nobody waits in vain
    assert counts["200"] > 100
    assert process.memory_info().rss - resident < 100 << 20
    assert endpoint.infer("slow", inputs=[ROW]).status_code == 200, "and then it is as before"


@pytest.mark.timeout(600)
def test_what_is_accepted_keeps_its_latency_at_five_times_the_capacity(world: World, start) -> None:
    make_slow_release(world.folder / "slow", layers=200)
    digest = world.registry.publish(world.folder / "slow")
    world.order(digest, "proven", model="slow")
    endpoint: Endpoint = start()
    endpoint.wait_serving(digest, "slow")
    assert endpoint.process
    process = psutil.Process(endpoint.process.pid)
    alone, capacity = closed_loop(endpoint)
    overload(endpoint, world.folder, 5 * capacity, 4)  # whatever grows once, grows now
    resident = process.memory_info().rss
    found = overload(endpoint, world.folder, 5 * capacity, 10)
    counts, taken = found["counts"], found["taken"]
    print(f"alone {alone * 1e3:.1f} ms, {capacity:.0f}/s; {counts}; p50 {taken[len(taken) // 2] * 1e3:.0f} ms, "
          f"p99 {taken[int(len(taken) * 0.99)] * 1e3:.0f} ms, {found['seconds']:.1f} s")  # fmt: skip
    assert set(counts) <= {"200", "503"}, counts
    assert counts["503"] > counts["200"], "it was no overload"
    assert counts["200"] / found["seconds"] > capacity / 10, "refusing is all that it does"
    # The client shares the cores, so this is generous: a queue of 256 had a median of five seconds here.
    assert taken[int(len(taken) * 0.95)] < 10 * (WAIT_S + alone)
    assert process.memory_info().rss - resident < 40 << 20
    assert endpoint.infer("slow", inputs=[ROW]).status_code == 200, "and then it is as before"


def closed_loop(endpoint: Endpoint, seconds: float = 3.0) -> tuple[float, float]:
    """Seconds of a request alone, and how many such requests a second it answers, one at a time."""
    taken = []
    with httpx.Client(base_url=endpoint.url, timeout=30) as client:
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(taken) < 5:
            started = time.perf_counter()
            client.post("/v2/models/slow/infer", json={"inputs": [ROW]}).raise_for_status()
            taken.append(time.perf_counter() - started)
    middle = sorted(taken)[len(taken) // 2]
    return middle, 1 / middle


def overload(endpoint: Endpoint, folder: Path, rate: float, seconds: float) -> dict:
    body = folder / "body.json"
    body.write_text(json.dumps({"inputs": [ROW]}))
    command = [sys.executable, "-m", "tests.serving.open_loop", str(endpoint.port), "/v2/models/slow/infer"]
    done = subprocess.run([*command, str(body), str(rate), str(seconds)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))
