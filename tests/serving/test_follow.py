"""The endpoint follows the ledger: real processes, real releases, kills and damage included."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from nightshift.releases.ledger import Outcome, now
from nightshift.releases.marks import Marks
from nightshift.serving.engine import Engine
from nightshift.serving.follow import Follower
from nightshift.serving.load import _COPIES
from tests.serving.world import Endpoint, World, wait_for


def test_an_endpoint_with_nothing_to_serve_is_alive_and_ready_and_serves_the_first_order(world: World, start) -> None:
    endpoint = start()
    endpoint.wait_alive()
    wait_for(lambda: endpoint.answers("/v2/health/ready"))
    assert endpoint.infer().status_code == 404
    digest = world.publish()
    world.order(digest)
    endpoint.refresh()
    endpoint.wait_serving(digest)
    assert endpoint.infer().headers["nightshift-digest"] == digest


def test_a_new_order_is_found_without_being_told(world: World, start) -> None:
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    world.order(second)
    endpoint.wait_serving(second)
    assert endpoint.infer(version=second[:12]).headers["nightshift-digest"] == second
    assert endpoint.infer(version=first[:12]).status_code == 404
    assert endpoint.of()["sequence"] == 2


def test_a_refused_order_gives_the_champion_back(world: World, start) -> None:
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    order = world.order(second)
    endpoint = start()
    endpoint.wait_serving(second)
    world.ledger.settle(order, Outcome(state="refused", reason="a test", at=now()))
    endpoint.refresh()
    endpoint.wait_serving(first)
    assert endpoint.of()["sequence"] == 1


def test_a_retired_model_answers_410_with_its_successor_and_answers_again_when_that_is_taken_back(
    world: World, start
) -> None:
    digest, old = world.publish(0), world.publish(1)
    world.order(digest, "proven")
    endpoint = start()
    endpoint.wait_serving(digest)
    marks = Marks(world.store)
    marks.put("toy", "retire", old, who="kim", reason="a leak")
    endpoint.refresh()
    wait_for(lambda: endpoint.infer(version=old[:12]).status_code == 410)
    assert endpoint.infer().status_code == 200
    marks.put("toy", "retire", None, who="kim", reason="replaced", successor="toy2")
    endpoint.refresh()
    gone = wait_for(lambda: (answer := endpoint.infer()).status_code == 410 and answer)
    assert gone.json()["error"] == "model 'toy' was retired: replaced; ask 'toy2' instead"
    assert endpoint.of()["retired"] == gone.json()["error"]
    assert "toy" not in json.loads((endpoint.copies / "serving.json").read_text())["models"]
    marks.put("toy", "retire", None, who="kim", reason="a mistake", undo=True)
    endpoint.refresh()
    endpoint.wait_serving(digest)
    assert endpoint.infer().headers["nightshift-digest"] == digest


def test_a_swap_under_load_loses_no_request_and_mixes_no_answer(world: World, start) -> None:
    digests = [world.publish(seed) for seed in range(3)]
    world.order(digests[0], "proven")
    endpoint = start()
    endpoint.wait_serving(digests[0])
    stop = threading.Event()
    seen: list[tuple[float, float, str]] = []
    problems: list[str] = []

    def ask() -> None:
        with httpx.Client(base_url=endpoint.url, timeout=10) as client:
            body = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": [9] * 48}]}
            while not stop.is_set():
                asked = time.monotonic()
                try:
                    answer = client.post("/v2/models/toy/infer", json=body)
                except httpx.HTTPError as error:
                    problems.append(repr(error))
                    continue
                digest = answer.headers.get("nightshift-digest", "")
                if answer.status_code != 200 or answer.json()["model_version"] != digest[:12]:
                    problems.append(answer.text)
                seen.append((asked, time.monotonic(), digest))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    swapped: list[tuple[float, str]] = []
    for turn in range(6):
        digest = digests[(turn + 1) % 3]
        world.order(digest, "proven")
        endpoint.refresh()
        endpoint.wait_serving(digest)
        swapped.append((time.monotonic(), digest))
        time.sleep(0.1)
    stop.set()
    for client in clients:
        client.join()
    assert problems == []
    assert {digest for _, _, digest in seen} == set(digests)
    assert len(seen) > 100
    for (after, digest), (until, _) in zip(swapped, [*swapped[1:], (time.monotonic(), "")], strict=True):
        # Between the moment that /status named it and the next order, nothing else answers.
        wrong = [
            each for asked, ended, each in seen if asked > after and ended < min(until, after + 0.1) and each != digest
        ]
        assert wrong == []


@pytest.mark.parametrize("damage", ["model.onnx", "golden.json", "manifest.json"])
def test_a_damaged_release_is_refused_while_the_old_one_goes_on(world: World, start, damage: str) -> None:
    first, second = world.publish(0), world.publish(1)
    key = f"releases/toy/{second}/{damage}"
    data = bytearray(world.store.get(key))
    data[len(data) // 2] ^= 1
    world.store.put(key, bytes(data))
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    world.order(second)
    endpoint.refresh()
    assert damage in endpoint.wait_refused(second)
    assert endpoint.of()["refused"]["sequence"] == 2
    assert endpoint.infer().headers["nightshift-digest"] == first
    assert endpoint.answers("/v2/health/ready")
    for _ in range(3):
        endpoint.refresh()
        time.sleep(0.1)
    assert endpoint.log.read_text().count("order 2") == 1, "a refusal is final: nothing is loaded again and again"


def test_a_release_with_wrong_golden_answers_is_refused(world: World, start) -> None:
    first, second = world.publish(0), world.publish(1, off=0.01)
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    world.order(second)
    endpoint.refresh()
    assert "golden request 1 disagrees" in endpoint.wait_refused(second)
    assert endpoint.infer().headers["nightshift-digest"] == first


def test_a_release_that_is_much_slower_is_refused_unless_the_order_allows_it(world: World, start) -> None:
    first, slow = world.publish(0), world.publish(0, slow=True)
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    world.order(slow, slower=5.0)
    endpoint.refresh()
    assert "5 times are allowed" in endpoint.wait_refused(slow)
    assert endpoint.infer().headers["nightshift-digest"] == first
    world.order(slow)
    endpoint.refresh()
    endpoint.wait_serving(slow)


def test_a_release_for_which_there_is_no_memory_is_tried_until_there_is(world: World, start) -> None:
    first, big = world.publish(0), world.publish(1, ballast=200)
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    process = psutil.Process(endpoint.process.pid)
    _, most = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + (120 << 20), most))
    world.order(big)
    problem = wait_for(lambda: endpoint.status()["problem"])
    assert f"this machine cannot load toy {big[:12]} now" in problem
    assert endpoint.of()["refused"] is None
    assert endpoint.infer().headers["nightshift-digest"] == first
    process.rlimit(psutil.RLIMIT_AS, (most, most))
    endpoint.wait_serving(big)
    wait_for(lambda: endpoint.status()["problem"] is None)  # when all models have been looked at


def test_an_order_of_a_release_that_nobody_published_is_refused_by_name(world: World, start) -> None:
    first = world.publish(0)
    world.order(first, "proven")
    world.order("0" * 64)
    endpoint = start()
    assert "no release 000000000000" in endpoint.wait_refused("0" * 64)
    endpoint.wait_serving(first)


def test_a_killed_endpoint_serves_again_when_it_is_started_again(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start()
    endpoint.wait_serving(digest)
    endpoint.stop(signal.SIGKILL)
    assert not endpoint.answers("/v2/health/live")
    endpoint.start()
    endpoint.wait_serving(digest)
    assert endpoint.infer().status_code == 200


def test_sigterm_answers_what_is_under_way_and_ends_with_0(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start()
    endpoint.wait_serving(digest)
    rows = 20_000  # half a second of parsing
    body = json.dumps(
        {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [rows, 4, 4, 3], "data": [7] * 48 * rows}]}
    )
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(endpoint.client.post("/v2/models/toy/infer", content=body)))
    asking.start()
    time.sleep(0.1)
    assert endpoint.stop() == 0
    asking.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["outputs"][0]["shape"] == [rows, 3]


def test_a_store_that_is_away_at_the_start_is_no_reason_not_to_serve(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start()
    endpoint.wait_serving(digest)
    endpoint.stop()
    gone = world.folder / "gone"
    (world.folder / "registry").rename(gone)
    (world.folder / "registry").write_text("a file where the folder was: every access fails\n")
    endpoint.start()
    endpoint.wait_serving(digest)
    assert endpoint.status()["problem"]
    assert endpoint.answers("/v2/health/ready")
    (world.folder / "registry").unlink()
    gone.rename(world.folder / "registry")
    second = world.publish(1)
    world.order(second)
    endpoint.wait_serving(second)
    wait_for(lambda: endpoint.status()["problem"] is None)  # told at the end of the reading that swapped


def test_a_registry_that_lost_its_ledger_is_a_problem_and_what_served_goes_on(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start()
    endpoint.wait_serving(digest)
    (world.folder / "registry").rename(world.folder / "not mounted")
    assert "no orders of toy" in wait_for(lambda: endpoint.status()["problem"])
    endpoint.stop(signal.SIGKILL)
    endpoint.start()
    endpoint.wait_serving(digest)


def test_copies_of_another_registry_are_never_served(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start()
    endpoint.wait_serving(digest)
    endpoint.stop()
    endpoint.registry = str(world.folder / "another")
    endpoint.start()
    wait_for(lambda: endpoint.answers("/v2/health/ready"))
    assert endpoint.status()["models"] == {}


def test_s3_away_at_a_restart_serves_from_the_local_copy(s3, tmp_path: Path, start_s3) -> None:
    world, endpoint = start_s3
    digest = world.publish()
    world.order(digest, "proven")
    endpoint.start()
    endpoint.wait_serving(digest)
    endpoint.stop(signal.SIGKILL)
    endpoint.environment["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    endpoint.start()
    endpoint.wait_serving(digest)
    assert "127.0.0.1:9" in wait_for(lambda: endpoint.status()["problem"])
    assert endpoint.infer().headers["nightshift-digest"] == digest


def test_who_has_seen_a_model_serve_or_gone_finds_it_so_after_a_kill_while_the_store_is_away(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered for a start without the ledger is written before it is so."""
    digest = world.publish()
    world.order(digest, "proven")
    engine, copies = Engine(), tmp_path / "copies"
    remembered: list[dict] = []

    def look_before(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            remembered.append(json.loads((copies / "serving.json").read_text())["models"])
            return change(*arguments)

        return changed

    for name in ("swap", "stop"):
        monkeypatch.setattr(engine, name, look_before(getattr(engine, name)))
    follower = Follower(world.registry, world.ledger, engine, copies)
    follower.step()
    assert remembered == [{"toy": {"digest": digest, "sequence": 1}}]
    Marks(world.store).put("toy", "retire", None, who="kim", reason="a leak")
    follower.step()
    assert remembered[1:] == [{}]


def test_what_was_retired_meanwhile_does_not_serve_again_when_the_store_is_away(world: World, tmp_path: Path) -> None:
    digest, copies = world.publish(), tmp_path / "copies"
    world.order(digest, "proven")
    Follower(world.registry, world.ledger, Engine(), copies).step()
    Marks(world.store).put("toy", "retire", None, who="kim", reason="a leak")
    follower = Follower(world.registry, world.ledger, Engine(), copies)  # it was away while that was said
    follower.step()
    (world.folder / "registry").rename(world.folder / "gone")
    (world.folder / "registry").write_text("away")
    follower.step()
    assert follower.problem
    assert follower.engine.serving("toy") is None


@pytest.fixture
def start_s3(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in s3.environment("deployer").items():
        monkeypatch.setenv(name, value)
    world = World(tmp_path, f"s3://{s3.registry}/follow-{uuid4().hex}")
    endpoint = Endpoint(world.store.url, tmp_path / "copies", s3.environment("endpoint"))
    yield world, endpoint
    endpoint.stop()
    endpoint.client.close()


def test_a_damaged_local_copy_is_not_served_when_the_store_is_away(world: World, start) -> None:
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start()
    endpoint.wait_serving(digest)
    endpoint.stop()
    (world.folder / "copies" / "toy" / digest / "model.onnx").write_bytes(b"damaged")
    (world.folder / "registry").rename(world.folder / "gone")
    (world.folder / "registry").write_text("away")
    endpoint.start()
    endpoint.wait_alive()
    wait_for(lambda: endpoint.status()["problem"])
    assert not endpoint.of().get("serving")
    assert endpoint.client.get("/v2/health/ready").status_code == 503


def test_many_swaps_keep_the_memory_flat(world: World, start) -> None:
    """No session stays behind: each old release is dropped, and the process does not grow by a session per swap."""
    digests = [world.publish(0), world.publish(1)]
    world.order(digests[0], "proven")
    endpoint = start()
    endpoint.wait_serving(digests[0])

    def threads() -> int:
        assert endpoint.process
        return len(list(Path(f"/proc/{endpoint.process.pid}/task").iterdir()))

    before = threads()
    for turn in range(1, 9):
        world.order(digests[turn % 2], "proven")
        endpoint.refresh()
        endpoint.wait_serving(digests[turn % 2])
    assert threads() <= before + 1
    assert "still hold" not in endpoint.log.read_text()


def test_two_endpoints_never_share_a_port(world: World, start) -> None:
    endpoint = start()
    endpoint.wait_alive()
    second = world.endpoint()
    second.port = endpoint.port
    second.start()
    assert second.process
    assert second.process.wait(15) == 1
    assert f"127.0.0.1:{endpoint.port} is taken" in second.log.read_text()
    second.client.close()


def test_several_models_are_served_side_by_side_and_one_bad_one_disturbs_no_other(world: World, start) -> None:
    toy, other = world.publish(0), world.publish(1, model="other")
    world.order("0" * 64, model="bad")
    world.order(toy, "proven")
    world.order(other, "proven", model="other")
    endpoint = start()
    endpoint.wait_serving(toy)
    endpoint.wait_serving(other, "other")
    assert endpoint.infer("other").headers["nightshift-model"] == "other"
    assert endpoint.of("bad")["serving"] is None


def test_a_slow_champion_comes_back_when_what_followed_it_is_refused(world: World, start) -> None:
    slow, fast = world.publish(0, slow=True), world.publish(1)
    world.order(slow, "proven", slower=10.0)
    endpoint = start()
    endpoint.wait_serving(slow)
    order = world.order(fast, slower=10.0)
    endpoint.refresh()
    endpoint.wait_serving(fast)
    world.ledger.settle(order, Outcome(state="refused", reason="a replica is away", fault="endpoint", at=now()))
    endpoint.refresh()
    endpoint.wait_serving(slow)


def test_what_is_too_slow_is_refused_by_an_endpoint_that_starts_too(world: World, start) -> None:
    fast, slow = world.publish(0), world.publish(1, slow=True)
    world.order(fast, "proven")
    world.order(slow, slower=10.0)  # its writer died: nobody settles it
    endpoint = start()
    wait_for(lambda: (endpoint.of().get("refused") or {}).get("kind") == "slow")
    assert endpoint.of()["serving"] == fast


def test_a_champion_that_is_damaged_where_it_lies_keeps_a_new_endpoint_unready_and_serves_when_it_is_mended(
    world: World, start
) -> None:
    digest, other = world.publish(), world.publish(model="other")
    world.order(digest, "proven")
    world.order(other, "proven", model="other")
    program = world.folder / "registry" / "releases" / "toy" / digest / "model.onnx"
    whole = program.read_bytes()
    program.write_bytes(whole[:-1] + b"x")
    endpoint = start()
    endpoint.wait_serving(other, "other")
    wait_for(lambda: endpoint.of().get("refused"))
    assert endpoint.client.get("/v2/health/ready").status_code == 503
    assert "toy" in endpoint.status()["problem"]
    program.write_bytes(whole)
    endpoint.refresh()
    endpoint.wait_serving(digest)
    wait_for(lambda: endpoint.answers("/v2/health/ready"))


def test_a_champion_whose_program_does_not_serve_any_more_keeps_no_other_release_out(world: World, start) -> None:
    """As after a change of the machine: it was proven where it gave other answers."""
    world.order(world.publish(0, off=0.01), "proven")
    endpoint = start()
    endpoint.wait_alive()
    wait_for(lambda: "disagrees" in (endpoint.status()["problem"] or ""))
    assert endpoint.client.get("/v2/health/ready").status_code == 503
    good = world.publish(1)
    world.order(good)
    endpoint.refresh()
    endpoint.wait_serving(good)


def test_copies_of_entries_order_nothing(world: World, start) -> None:
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    world.order(second, "proven")
    orders = world.folder / "registry" / "ledger" / "toy" / "orders"
    (orders / "Copy of 00000001.json").write_bytes((orders / "00000001.json").read_bytes())
    shutil.copytree(orders.parent, orders.parents[1] / "toy.bak")
    endpoint = start()
    endpoint.wait_serving(second)
    wait_for(lambda: "toy.bak/orders/00000002.json is a copy of" in (endpoint.status()["problem"] or ""))
    assert endpoint.of("toy.bak").get("serving") is None
    assert endpoint.infer().headers["nightshift-digest"] == second


def test_an_entry_that_cannot_be_read_stops_its_own_model_only(world: World, start) -> None:
    digest = world.publish(model="zoo")
    world.order(world.publish(), "proven")
    world.order(digest, "proven", model="zoo")
    orders = world.folder / "registry" / "ledger" / "toy" / "orders"
    (orders / "00000002.json").symlink_to("nowhere")
    endpoint = start()
    endpoint.wait_serving(digest, "zoo")
    wait_for(lambda: "toy" in (endpoint.status()["problem"] or ""))
    assert endpoint.client.get("/v2/health/ready").status_code == 503
    (orders / "00000002.json").unlink()
    wait_for(lambda: endpoint.answers("/v2/health/ready"))


def test_of_the_local_copies_only_the_last_few_are_kept(world: World, start) -> None:
    endpoint = start()
    endpoint.wait_alive()
    for seed in range(6):
        digest = world.publish(seed)
        world.order(digest, "proven")
        endpoint.refresh()
        endpoint.wait_serving(digest)
    wait_for(lambda: len(list((endpoint.copies / "toy").iterdir())) <= 1 + _COPIES)
    assert digest in {folder.name for folder in (endpoint.copies / "toy").iterdir()}
