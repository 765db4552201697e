"""Five times what it can do: what is accepted is answered soon, all else is refused at once."""

import asyncio
import http.client
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from nightshift.serving.inference import WAIT_S
from tests.serving.slow_release import ROW, make_slow_release
from tests.serving.world import Endpoint, World

pytestmark = pytest.mark.long

FLOODERS = 3  # processes: where the machine has much else to do, one gets too little of it to flood anybody


@pytest.mark.timeout(600)
@pytest.mark.parametrize("layers", [30, 200])  # about a millisecond, in the event loop; about five, in threads
def test_what_is_accepted_keeps_its_latency_at_five_times_the_capacity(world: World, start, layers: int) -> None:
    make_slow_release(world.folder / "slow", layers=layers)
    digest = world.registry.publish(world.folder / "slow")
    world.order(digest, "proven", model="slow")
    endpoint: Endpoint = start(options=("--log-level", "warning"))
    endpoint.wait_serving(digest, "slow")
    assert endpoint.process
    process = psutil.Process(endpoint.process.pid)
    alone, _ = closed_loop(endpoint, 1)
    _, capacity = closed_loop(endpoint, 8)
    overload(endpoint, world.folder, 5 * capacity, 4)  # whatever grows once, grows now
    resident = process.memory_info().rss
    for _ in range(5):  # while the machine has much else to do, whoever should flood it may be too slow for that
        found = overload(endpoint, world.folder, 5 * capacity, 10)
        if found["counts"]["503"] > found["counts"]["200"]:
            break
    counts, taken, beside = found["counts"], found["taken"], found["beside"]
    print(f"alone {alone * 1e3:.1f} ms, {capacity:.0f}/s; {dict(counts)}; p50 {taken[len(taken) // 2] * 1e3:.0f} ms, "
          f"p99 {taken[int(len(taken) * 0.99)] * 1e3:.0f} ms, {found['seconds']:.1f} s; "
          f"beside {len(beside)}, p95 {beside[int(len(beside) * 0.95)] * 1e3:.0f} ms")  # fmt: skip
    assert set(counts) <= {"200", "503"}, counts  # nobody waits in vain
    assert counts["503"] > counts["200"], "it was no overload"
    assert counts["200"] / found["seconds"] > capacity / 10, "refusing is all that it does"
    # Both clients share the cores, so this is generous: a queue of 256 had a median of five seconds here.
    assert beside[int(len(beside) * 0.95)] < 10 * (WAIT_S + alone)
    assert taken[int(len(taken) * 0.95)] < 20 * (WAIT_S + alone)
    assert process.memory_info().rss - resident < 60 << 20
    assert endpoint.infer("slow", inputs=[ROW]).status_code == 200, "and then it is as before"


def closed_loop(endpoint: Endpoint, connections: int, seconds: float = 3.0) -> tuple[float, float]:
    """The middle of the seconds of an answer, and the answers a second, of so many connections that ask in turn; on a
    machine with much else to do, eight may already be too many at times.
    """
    body = json.dumps({"inputs": [ROW]}).encode()
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    taken: list[float] = []

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            started = time.perf_counter()
            writer.write(head + body)
            said = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(said.split(b"content-length:")[1].split(b"\r\n")[0]))
            status = said.split()[1]
            assert status == b"200" or (status == b"503" and connections > 1), said
            if status == b"200":
                taken.append(time.perf_counter() - started)
        writer.close()

    async def all_ask() -> None:
        await asyncio.gather(*(ask() for _ in range(connections)))

    asyncio.run(all_ask())
    return sorted(taken)[len(taken) // 2], len(taken) / seconds


def overload(endpoint: Endpoint, folder: Path, rate: float, seconds: float) -> dict:
    """What became of so many a second; as ``beside``, the seconds of each answer to one who asks in turn meanwhile:
    whoever sends thousands a second on a busy machine also waits for himself.
    """
    body = folder / "body.json"
    body.write_text(json.dumps({"inputs": [ROW]}))
    asks = [sys.executable, "-m", "tests.serving.open_loop", str(endpoint.port), "/v2/models/slow/infer", str(body)]
    command = [*asks, str(rate / FLOODERS), str(seconds)]
    beside = []
    floods = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(FLOODERS)]
    with ThreadPoolExecutor(FLOODERS) as pool:
        said = [pool.submit(flood.communicate) for flood in floods]
        connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=60)
        while not all(each.done() for each in said):
            started = time.perf_counter()
            connection.request("POST", "/v2/models/slow/infer", body.read_bytes())
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (200, 503)
            if answer.status == 200:
                beside.append(time.perf_counter() - started)
            time.sleep(0.02)
    assert [flood.returncode for flood in floods] == [0] * FLOODERS
    found = [json.loads(each.result()[0]) for each in said]
    return {
        "counts": sum((Counter(each["counts"]) for each in found), Counter()),
        "taken": sorted(itertools.chain.from_iterable(each["taken"] for each in found)),
        "seconds": max(each["seconds"] for each in found),
        "beside": sorted(beside),
    }
