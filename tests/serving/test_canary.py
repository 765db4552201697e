"""A release beside the champion: who is asked, what is counted, and what the writer of the order makes of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from nightshift.releases.ledger import Canary, Outcome, now, rollback_target
from nightshift.releases.promotion import Result, promote
from nightshift.serving.engine import Engine
from nightshift.serving.follow import Follower
from tests.serving.world import IMAGE, KEY, Endpoint, World, wait_for

HALF = Canary(weight=0.5, minutes=0.1, requests=10)


@contextmanager
def traffic(endpoint: Endpoint, image: dict[str, Any] = IMAGE) -> Iterator[list[httpx.Response]]:
    """One client that asks all the time, on a new connection now and then, so that every process is asked."""
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            with httpx.Client(base_url=endpoint.url, timeout=30) as client:
                for _ in range(10):
                    answers.append(client.post("/v2/models/toy/infer", json={"inputs": [image]}))

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield answers
    finally:
        stop.set()
        client.join()


def promote_canary(world: World, endpoint: Endpoint, digest: str, canary: Canary, monkeypatch, **settings) -> Result:
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", KEY)
    defaults: dict[str, Any] = {"who": "test", "what": "promote", "reason": "a test", "evidence": {}, "deadline_s": 60}
    return promote(
        world.registry,
        world.ledger,
        "toy",
        digest,
        endpoints=[endpoint.url],
        canary=canary,
        **{**defaults, **settings},
    )


def states(world: World) -> list[tuple[str, str | None]]:
    return [(order.kind, outcome and outcome.state) for order, outcome in world.ledger.history("toy")]


def test_a_canary_answers_its_share_by_name_and_is_gone_when_it_is_refused(world: World, start) -> None:
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    order = world.order(second, canary=Canary(weight=0.3))
    endpoint.refresh()
    wait_for(lambda: endpoint.of()["canary"])
    assert endpoint.of()["serving"] == first
    roles = [endpoint.infer().headers for _ in range(200)]
    asked = [(headers["nightshift-role"], headers["nightshift-digest"]) for headers in roles]
    assert set(asked) == {("champion", first), ("canary", second)}
    assert 25 < asked.count(("canary", second)) < 100  # 60 expected; one in a million falls outside
    for digest in (first, second):
        pinned = endpoint.infer(version=digest[:12])
        assert (pinned.headers["nightshift-role"], pinned.headers["nightshift-digest"]) == ("pinned", digest)
    counts = endpoint.of()["canary"]["counts"]
    assert counts["canary"]["requests"] == asked.count(("canary", second)) == sum(counts["canary"]["seconds"])
    assert (
        sum(counts["champion"]["answers"].values())
        == counts["champion"]["requests"]
        == asked.count(("champion", first))
    )
    world.ledger.settle(order, Outcome(state="refused", reason="a test", at=now()))
    endpoint.refresh()
    wait_for(lambda: endpoint.of()["canary"] is None)
    assert {endpoint.infer().headers["nightshift-digest"] for _ in range(20)} == {first}
    assert endpoint.infer(version=second[:12]).status_code == 404


def test_a_canary_that_is_no_worse_becomes_the_champion(world: World, start, monkeypatch) -> None:
    first, second = world.publish(0), world.publish(0, card="another card", lineage={"opponent": "x"}, bias=1e-3)
    world.order(first, "proven")
    endpoint = start(options=("--processes", "2"))
    wait_for(lambda: endpoint.answers("/v2/health/ready"), 60)
    with traffic(endpoint):
        result = promote_canary(world, endpoint, second, HALF, monkeypatch)
    assert result.state == "proven", result.reason
    assert states(world) == [("champion", "proven"), ("canary", "proven"), ("champion", "proven")]
    assert world.ledger.live("toy").digest == second
    assert "no worse than the champion" in world.ledger.history("toy")[1][1].reason


def test_a_canary_that_answers_otherwise_is_refused_at_once(world: World, start, monkeypatch) -> None:
    first, second = world.publish(0), world.publish(0, bias=5000.0)  # whatever it sees, it is a cat
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    ship = next(image for image in images() if not is_a_cat(endpoint, image))
    long = Canary(weight=0.5, minutes=60, requests=30)
    with traffic(endpoint, ship) as answers:
        result = promote_canary(world, endpoint, second, long, monkeypatch)
        wait_for(lambda: endpoint.of()["canary"] is None)
    assert result.state == "refused"
    assert "as a canary: it answers" in result.reason
    assert states(world) == [("champion", "proven"), ("canary", "refused")]
    assert {answer.status_code for answer in answers} == {200}
    assert endpoint.infer().headers["nightshift-digest"] == first


def test_a_canary_that_hardly_anybody_asked_is_inconclusive_and_not_barred(world: World, start, monkeypatch) -> None:
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    result = promote_canary(world, endpoint, second, Canary(weight=0.5, minutes=0.02), monkeypatch)
    assert result.state == "refused"
    assert "inconclusive" in result.reason
    assert world.ledger.history("toy")[-1][1].fault == "endpoint"


def test_a_newer_order_ends_a_canary_and_a_rollback_goes_to_its_champion(world: World, start, monkeypatch) -> None:
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    results: list[Result] = []
    long = Canary(weight=0.5, minutes=60)
    trying = threading.Thread(target=lambda: results.append(promote_canary(world, endpoint, second, long, monkeypatch)))
    trying.start()
    wait_for(lambda: endpoint.of().get("canary"))
    assert rollback_target(world.ledger.newest_first("toy"), {first}).digest == first
    back = promote_canary(world, endpoint, first, None, monkeypatch, what="rollback")
    trying.join(60)
    assert (back.state, results[0].state) == ("proven", "superseded"), (back, results)
    assert back.order.away_from == (world.registry.manifest("toy", second).model_digest,)
    wait_for(lambda: endpoint.of().get("canary", "not told") is None)


def test_a_rollback_to_the_champion_is_proven_once_that_answers_alone(world: World, start, monkeypatch) -> None:
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    world.order(second, canary=Canary(weight=0.99, minutes=60))
    wait_for(lambda: endpoint.of().get("canary"))
    # It is not told, and follows when it next looks: the champion serves all the while, and a canary answers for it.
    monkeypatch.setattr("nightshift.releases.proof.tell", lambda *_: True)
    back = promote_canary(world, endpoint, first, None, monkeypatch, what="rollback")
    assert back.state == "proven", back
    assert endpoint.of()["canary"] is None
    assert {endpoint.infer().headers["nightshift-digest"] for _ in range(20)} == {first}


def test_a_canary_answers_before_the_status_names_it_and_is_named_until_it_answers_no_more(
    world: World, tmp_path: Path, monkeypatch
) -> None:
    """Whoever proves an order reads the status and asks at once."""
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    engine = Engine()
    follower = Follower(world.registry, world.ledger, engine, tmp_path / "copies")
    follower.step()
    seen: list[tuple[bool, bool]] = []

    def look_after(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            done = change(*arguments)
            named = follower.status()["models"]["toy"]["canary"] is not None
            seen.append((named, engine.served("toy").canary is not None))
            return done

        return changed

    tallies = follower.tallies
    for of, name in ((tallies, "begin"), (tallies, "end"), (engine, "try_out"), (engine, "end_canary")):
        monkeypatch.setattr(of, name, look_after(getattr(of, name)))
    order = world.order(second, canary=HALF)
    follower.step()
    assert (True, False) not in seen
    assert len(seen) == 2
    world.ledger.settle(order, Outcome(state="refused", reason="a test", at=now()))
    follower.step()
    assert (False, True) not in seen[2:]
    assert len(seen) == 4
    assert follower.status()["models"]["toy"]["canary"] is None


def test_the_first_release_is_compared_with_nothing_and_serves(world: World, start, monkeypatch) -> None:
    endpoint = start()
    endpoint.wait_alive()
    digest = world.publish()
    assert promote_canary(world, endpoint, digest, HALF, monkeypatch).state == "proven"
    assert states(world) == [("champion", "proven")]


def test_a_canary_whose_writer_died_is_settled_by_the_next(world: World, start, monkeypatch) -> None:
    first, second, third = (world.publish(seed) for seed in range(3))
    world.order(first, "proven")
    endpoint = start()
    endpoint.wait_serving(first)
    world.order(second, canary=HALF, deadline_s=0)
    assert promote_canary(world, endpoint, third, None, monkeypatch).state == "proven"
    assert states(world)[1] == ("canary", "refused")
    assert "inconclusive" in world.ledger.history("toy")[1][1].reason


def images() -> Iterator[dict[str, Any]]:
    for start in range(0, 256, 8):
        yield {**IMAGE, "data": [(start * at) % 256 for at in range(48)]}


def is_a_cat(endpoint: Endpoint, image: dict[str, Any]) -> bool:
    (output,) = endpoint.infer(inputs=[image]).json()["outputs"]
    return bool(max(output["data"]) == output["data"][0])
