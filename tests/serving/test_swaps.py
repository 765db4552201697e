"""Many swaps: of a big model without growing, and under load without losing a request."""

import os
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.releases import make
from tests.serving.world import IMAGE, Endpoint, World

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
_MB = 1 << 20


def rss(endpoint: Endpoint) -> float:
    """Resident memory in MB."""
    assert endpoint.process
    pages = int(Path(f"/proc/{endpoint.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB


def test_fifty_swaps_of_a_model_of_90_mb_leave_the_memory_flat(world: World, start) -> None:
    digests = [world.publish(seed, ballast=90) for seed in range(2)]
    world.order(digests[0], "proven")
    endpoint = start()
    endpoint.wait_serving(digests[0], seconds=120)
    after: list[float] = []
    for turn in range(1, 51):
        wanted = digests[turn % 2]
        world.order(wanted, "proven")
        endpoint.refresh()
        endpoint.wait_serving(wanted, seconds=120)
        assert endpoint.infer().headers["nightshift-digest"] == wanted
        time.sleep(0.3)
        after.append(rss(endpoint))
    early, late = float(np.median(after[5:15])), float(np.median(after[-10:]))
    print(f"RSS MB: after 1 {after[0]:.0f}, swaps 6 to 15 {early:.0f}, 41 to 50 {late:.0f}, most {max(after):.0f}")
    assert late < early + 90, after  # a leak of a tenth of a model per swap would be 300


def test_twenty_swaps_under_load_lose_nothing_and_answer_nothing_old(world: World, start) -> None:
    digests = [world.publish(seed) for seed in range(2)]
    world.order(digests[0], "proven")
    endpoint = start()
    endpoint.wait_serving(digests[0])
    with httpx.Client(base_url=endpoint.url, timeout=60) as client:
        for _ in range(50):
            client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]})
        began = time.perf_counter()
        for _ in range(200):
            client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]})
        each = (time.perf_counter() - began) / 200
    right = {}
    for digest in digests:
        golden = make.answer(world.folder / f"release-{digests.index(digest) + 1}", IMAGE["data"])
        right[digest] = golden
    stop, lock = threading.Event(), threading.Lock()
    seen: list[tuple[float, float, str]] = []
    problems: list[str] = []

    def ask() -> None:
        with httpx.Client(base_url=endpoint.url, timeout=60) as client:
            while not stop.is_set():
                asked = time.perf_counter()
                try:
                    answer = client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]})
                    ended = time.perf_counter()
                    digest = answer.headers["nightshift-digest"]
                    if not np.allclose(answer.json()["outputs"][0]["data"], right[digest], atol=1e-4):
                        problems.append(f"an answer of {digest} is not its own")
                    with lock:
                        seen.append((asked, ended, digest))
                except (httpx.HTTPError, KeyError) as error:
                    problems.append(repr(error))
                time.sleep(each * 3 / 7)  # 70 % of the time asking

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    time.sleep(5)
    before = len(seen)
    swaps: list[tuple[float, str]] = []
    for turn in range(20):
        wanted = digests[(turn + 1) % 2]
        world.order(wanted, "proven")
        endpoint.refresh()
        endpoint.wait_serving(wanted)
        swaps.append((time.perf_counter(), wanted))
        time.sleep(0.3)
        old = [one for one in list(seen) if one[0] > swaps[-1][0] and one[2] != wanted]
        assert old == []
    stop.set()
    for client in clients:
        client.join()
    quiet = np.percentile([ended - asked for asked, ended, _ in seen[:before]], 99) * 1000
    swapping = np.percentile([ended - asked for asked, ended, _ in seen[before:]], 99) * 1000
    print(f"{len(seen)} requests, {len(problems)} lost or wrong; p99 {quiet:.1f} ms before, {swapping:.1f} ms during")
    assert problems == []
    assert {digest for _, _, digest in seen} == set(digests)
