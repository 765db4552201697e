"""What happens to an endpoint while it serves: its store is killed, orders race. It answers all the while."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pyarrow.dataset
import pyarrow.fs
import pytest

from nightshift.stack.processes import Processes
from tests.conftest import S3, make_s3
from tests.serving.world import ADMIN, IMAGE, Endpoint, World, wait_for

PATIENCE = 120.0


@contextmanager
def asked(endpoint: Endpoint, clients: int = 3) -> Iterator[Counter[str]]:
    """Asked without pause meanwhile; what came back, counted by status, digests and errors."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():  # a connection for some requests each, so that every process is asked
            with httpx.Client(base_url=endpoint.url, timeout=60) as client:
                for _ in range(20):
                    try:
                        answer = client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]})
                        seen[str(answer.status_code)] += 1
                        seen[answer.headers.get("nightshift-digest", "")] += 1
                    except httpx.HTTPError as error:
                        seen[repr(error)] += 1
                    time.sleep(0.005)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def metric(endpoint: Endpoint, name: str) -> float:
    text = endpoint.client.get("/metrics", headers=ADMIN).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_store_that_is_killed_under_load_stops_no_request_and_is_followed_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, processes = make_s3(tmp_path), Processes(tmp_path / "home")
    (tmp_path / "home").mkdir()
    server.start(processes)
    s3 = S3(server)
    for name, value in s3.environment("deployer").items():
        monkeypatch.setenv(name, value)
    world = World(tmp_path / "world", f"s3://{s3.registry}")
    told = {**s3.environment("endpoint"), "NIGHTSHIFT_SERVED": f"s3://{s3.served}"}
    endpoint = Endpoint(world.store.url, tmp_path / "copies", told, ("--sample-rate", "1", "--processes", "2"))
    try:
        first = world.publish()
        world.order(first, "proven")
        endpoint.start()
        endpoint.wait_serving(first, seconds=PATIENCE)
        wait_for(lambda: endpoint.answers("/v2/health/ready"), PATIENCE)
        with asked(endpoint) as seen:
            wait_for(lambda: seen["200"] > 200, PATIENCE)
            os.kill(processes.running("s3") or 0, signal.SIGKILL)
            wait_for(lambda: endpoint.status()["problem"], PATIENCE)
            wait_for(lambda: metric(endpoint, "nightshift_store_problem") == 1, PATIENCE)
            read_at = metric(endpoint, "nightshift_ledger_read_timestamp_seconds")
            resident, before = memory(endpoint), seen["200"]
            wait_for(lambda: seen["200"] > before + 2000, PATIENCE)
            assert endpoint.answers("/v2/health/ready"), "it has what it serves"
            assert metric(endpoint, "nightshift_ledger_read_timestamp_seconds") == read_at
            assert memory(endpoint) < resident + (120 << 20), "32 MB of samples wait in each process at most"
            processes.stop("s3")
            server.start(processes)
            wait_for(lambda: endpoint.status()["problem"] is None, PATIENCE)
            second = world.publish(seed=1)
            world.order(second)
            endpoint.wait_serving(second, seconds=PATIENCE)
            before = seen[second]
            wait_for(lambda: seen[second] > before + 100, PATIENCE)
        assert set(seen) == {"200", first, second}, seen
        assert metric(endpoint, "nightshift_store_problem") == 0
        assert metric(endpoint, "nightshift_requests_total{") >= seen["200"]
        assert endpoint.stop() == 0
        log = endpoint.log.read_text()
        assert "cannot" in log
        assert "it is over: " in log
        assert 2000 < samples(s3, told) <= seen["200"], "what waited while the store was away is there too"
    finally:
        if endpoint.process and endpoint.process.poll() is None:
            endpoint.stop(signal.SIGKILL)
        endpoint.client.close()
        processes.stop("s3")


def memory(endpoint: Endpoint) -> int:
    """Resident bytes of all its processes."""
    assert endpoint.process
    parent = psutil.Process(endpoint.process.pid)
    return int(sum(each.memory_info().rss for each in (parent, *parent.children(recursive=True))))


def samples(s3: S3, told: dict[str, str]) -> int:
    bucket = pyarrow.fs.S3FileSystem(
        access_key=told["AWS_ACCESS_KEY_ID"],
        secret_key=told["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=s3.url.removeprefix("http://"),
        scheme="http",
    )
    return int(pyarrow.dataset.dataset(f"{s3.served}/samples", filesystem=bucket, format="parquet").count_rows())


def test_orders_that_come_while_others_are_loaded_end_at_the_last_one_and_lose_nothing(
    world: World, start: Callable[..., Endpoint]
) -> None:
    digests = [world.publish(seed, ballast=20) for seed in range(4)]
    world.order(digests[0], "proven")
    endpoint = start(options=("--processes", "2"))
    endpoint.wait_serving(digests[0], seconds=PATIENCE)
    wait_for(lambda: endpoint.answers("/v2/health/ready"), PATIENCE)
    with asked(endpoint) as seen:
        wait_for(lambda: seen["200"] > 20, PATIENCE)
        for digest in (*digests[1:], *digests[1:]):  # each while the one before is loaded, or not even that
            world.order(digest)
            endpoint.refresh()
            time.sleep(0.05)
        wait_for(lambda: all_serve(endpoint, digests[-1]), PATIENCE)
        before = seen[digests[-1]]
        wait_for(lambda: seen[digests[-1]] > before + 100, PATIENCE)
    assert set(seen) <= {"200", *digests}, seen
    assert endpoint.of()["sequence"] == 7
    assert endpoint.of()["refused"] is None


def all_serve(endpoint: Endpoint, digest: str) -> bool:
    said = endpoint.status()["processes"]
    return all(process and process["models"]["toy"]["serving"] == digest for process in said)
