"""Several processes on one port: they start, swap, refuse and end as one endpoint."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from nightshift.releases.ledger import Canary, Outcome, now, superseded
from nightshift.releases.store import open_store
from nightshift.serving.keys import Keys
from nightshift.serving.processes import Peers
from tests.serving.slow_release import make_slow_release
from tests.serving.world import Endpoint, World, wait_for

TWO = ("--processes", "2")


def pids(endpoint: Endpoint) -> set[int]:
    return {process["pid"] for process in endpoint.status()["processes"] if process}


def of_all(endpoint: Endpoint) -> list[str | None]:
    try:
        return [process and process["models"]["toy"]["serving"] for process in endpoint.status()["processes"]]
    except (httpx.HTTPError, KeyError):
        return []


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_any_process_tells_of_all_and_readiness_waits_for_all(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start(options=TWO)
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)
    assert of_all(endpoint) == [digest, digest]
    assert len(pids(endpoint)) == 2
    asked = [httpx.post(f"{endpoint.url}/v2/models/toy/infer", json={"inputs": [IMAGE]}) for _ in range(8)]
    assert {answer.headers["nightshift-digest"] for answer in asked} == {digest}


def test_a_deep_place_for_temporary_files_is_no_trouble(world: World, start, tmp_path: Path) -> None:
    """A socket's path may have 107 bytes only."""
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    world.order(world.publish(), "proven")
    endpoint = start({"TMPDIR": str(deep)}, options=TWO)
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)


def test_processes_swap_together_under_load_and_lose_nothing(world: World, start) -> None:
    digests = [world.publish(seed) for seed in range(2)]
    world.order(digests[0], "proven")
    endpoint = start(options=TWO)
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)
    stop, problems, asked = threading.Event(), [], [0]

    def ask() -> None:
        while not stop.is_set():
            with httpx.Client(base_url=endpoint.url, timeout=30) as client:
                for _ in range(20):
                    try:
                        answer = client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]})
                        asked[0] += 1
                        if answer.status_code != 200 or answer.headers["nightshift-digest"] not in digests:
                            problems.append(answer.text)
                    except httpx.HTTPError as error:
                        problems.append(repr(error))

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    for turn in range(4):
        wanted = digests[(turn + 1) % 2]
        world.order(wanted, "proven")
        endpoint.refresh()
        wait_for(lambda wanted=wanted: of_all(endpoint) == [wanted, wanted], 60)
    stop.set()
    for client in clients:
        client.join()
    assert problems == []
    assert asked[0] > 20


def test_a_process_that_is_killed_is_started_again_and_serves_what_the_others_do(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start(options=TWO)
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)
    time.sleep(5.1)  # as a process that ends while it starts would, it would end the endpoint
    killed = max(pids(endpoint))
    os.kill(killed, signal.SIGKILL)

    def both_again() -> bool:
        try:
            now = pids(endpoint)
        except (httpx.HTTPError, KeyError):
            return False  # this connection was the killed one's
        return len(now) == 2 and killed not in now and of_all(endpoint) == [digest, digest]

    wait_for(both_again, 60)
    assert endpoint.stop() == 0


@contextmanager
def hangup(handler: signal.Handlers) -> Iterator[None]:
    """What is started within inherits what becomes of it when its terminal goes."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("options", [(), TWO], ids=["one", "two"])
def test_when_its_terminal_goes_an_endpoint_ends_well_unless_it_was_told_not_to(world: World, start, options) -> None:
    world.order(world.publish(), "proven")
    with hangup(signal.SIG_DFL):  # these tests may have been started by nohup themselves
        endpoint = start(options=options)
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)
    assert endpoint.stop(signal.SIGHUP) == 0
    assert endpoint.log.read_text().count("stopped") == max(1, len(options))
    with hangup(signal.SIG_IGN):  # as nohup does
        endpoint.start()
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)
    endpoint.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert endpoint.infer().status_code == 200
    assert endpoint.stop() == 0


@pytest.mark.parametrize("options", [(), TWO], ids=["one", "two"])
def test_who_is_told_to_stop_while_it_loads_a_release_ends_well(world: World, start, options) -> None:
    make_slow_release(world.folder / "slow", layers=3000)
    world.order(world.registry.publish(world.folder / "slow"), "proven", model="slow")
    endpoint = start(options=options)
    for pause in (0.0, 0.1, 0.2, 0.4):
        wait_for(lambda: endpoint.answers("/v2/health/live"), 60)
        time.sleep(pause)
        assert not endpoint.answers("/v2/health/ready"), "it has loaded already: this test proves nothing"
        assert endpoint.stop() == 0
        endpoint.start()


def test_a_process_that_is_started_again_serves_at_once_whatever_was_ordered_meanwhile(world: World, start) -> None:
    """The champion is that of a rollback, which the others served already, and a later order was refused."""
    first, second, wrong = world.publish(0), world.publish(1), world.publish(2, off=0.01)
    world.order(first, "proven")
    endpoint = start(options=TWO)
    wait_for(lambda: endpoint.answers("/v2/health/ready") and of_all(endpoint) == [first, first], 60)
    canary = world.order(second, canary=Canary(weight=0.5))
    endpoint.refresh()
    wait_for(lambda: all(process["models"]["toy"]["canary"] for process in endpoint.status()["processes"]), 60)
    back = world.order(first, what="rollback")
    world.ledger.settle(canary, superseded(back))
    world.ledger.settle(back, Outcome(state="proven", reason="a test", at=now()))
    refused = world.order(wrong)
    endpoint.refresh()
    wait_for(lambda: all(process["models"]["toy"]["refused"] for process in endpoint.status()["processes"]), 60)
    world.ledger.settle(refused, Outcome(state="refused", reason="a test", fault="release", at=now()))
    endpoint.refresh()
    time.sleep(5.1)
    killed = max(pids(endpoint))
    os.kill(killed, signal.SIGKILL)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        with suppress(httpx.HTTPError):  # a connection that the killed one had
            answer = httpx.post(f"{endpoint.url}/v2/models/toy/infer", json={"inputs": [IMAGE]})
            assert answer.status_code == 200, answer.text
    assert of_all(endpoint) == [first, first]


def test_no_process_outlives_its_parent_and_the_port_is_free(world: World, start) -> None:
    endpoint = start(options=TWO)
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)
    workers = pids(endpoint)
    endpoint.client.close()
    endpoint.stop(signal.SIGKILL)
    wait_for(lambda: not any(runs(pid) for pid in workers), 60)
    endpoint.client = httpx.Client(base_url=endpoint.url, timeout=10)
    endpoint.start()
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)


def test_a_start_that_fails_in_every_process_ends_the_endpoint(world: World, start) -> None:
    endpoint = start(options=("--processes", "0"))
    assert endpoint.process.wait(60) == 2
    assert "no number of them" in endpoint.log.read_text()


def test_votes_one_refusal_binds_all_a_newer_order_wins_and_the_silent_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightshift.serving.processes.AGREE_S", 0.3)
    one, two = Peers(tmp_path, 0, 2), Peers(tmp_path, 1, 2)
    assert one.agree("toy", 1) == ""  # after AGREE_S: the other is silent
    assert two.agree("toy", 1, "it is slow") == "it is slow"
    assert two.agree("toy", 3) == ""
    monkeypatch.setattr("nightshift.serving.processes.AGREE_S", 60)
    assert one.agree("toy", 2) is None
    assert one.agree("toy.2", 3, "another model") == "another model"
    assert one.agree("toy", 3) == ""
    assert Peers().agree("toy", 1, "alone") == "alone"


IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": list(range(48))}


def test_processes_that_everybody_can_reach_serve_from_s3_with_keys_from_s3(
    s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are asked for before the processes are forked, and S3 has to answer in each of them all the same."""
    for name, value in s3.environment("admin").items():
        monkeypatch.setenv(name, value)
    world = World(tmp_path, f"s3://{s3.registry}/processes-{os.urandom(4).hex()}")
    secret, _ = Keys(open_store(f"s3://{s3.keys}")).create(
        f"caller-{os.urandom(4).hex()}", by="test", scopes=("predict", "admin")
    )
    digest = world.publish()
    world.order(digest, "proven")
    environment = {**s3.environment("endpoint"), "NIGHTSHIFT_ENDPOINT_KEY_SHA256": ""}
    endpoint = world.endpoint(environment, options=(*TWO, "--host", "0.0.0.0")).start()
    endpoint.client.headers["authorization"] = f"Bearer {secret}"

    def serving() -> bool:
        try:
            processes = endpoint.client.get("/status").json()["processes"]
        except (httpx.HTTPError, KeyError):
            return False
        return [one and one["models"].get("toy", {}).get("serving") for one in processes] == [digest] * 2

    try:
        wait_for(serving, 120)
    finally:
        endpoint.stop()
