import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from nightshift.releases.errors import FormatTooNew, ReleaseCorrupt
from nightshift.releases.ledger import Ledger, Order, Outcome, barred, live, now, rollback_target
from nightshift.releases.store import Store, open_store
from tests.serving.world import wait_for

ALL = {letter * 64 for letter in "abcdef"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_store(str(tmp_path / "registry")))


def put(ledger: Ledger, letter: str, what: Any = "deploy", **changes: Any) -> Order:
    """An order for the release whose digest (and model digest) is this letter 64 times."""
    settings = {
        "digest": letter * 64,
        "model_digest": letter * 64,
        "who": "night",
        "what": what,
        "reason": "because",
        "evidence": {},
        "deadline": timedelta(minutes=1),
        **changes,
    }
    return ledger.order("toy", **settings)


def settle(ledger: Ledger, order: Order, state: Any, **changes: Any) -> Outcome:
    return ledger.settle(order, Outcome(state=state, reason=f"{state} it is", at=now(), **changes))


def test_an_empty_ledger_wants_nothing(ledger: Ledger) -> None:
    assert ledger.models() == []
    assert ledger.history("toy") == []
    assert ledger.live("toy") is ledger.wanted("toy") is ledger.newest("toy") is None


def test_endpoints_serve_the_newest_order_that_is_proven_or_has_no_outcome(ledger: Ledger) -> None:
    a = put(ledger, "a")
    assert ledger.wanted("toy") == a
    assert ledger.live("toy") is None
    settle(ledger, a, "proven")
    assert ledger.live("toy") == a
    b = put(ledger, "b")
    assert (ledger.wanted("toy"), ledger.live("toy")) == (b, a)
    settle(ledger, b, "refused")
    assert (ledger.wanted("toy"), ledger.live("toy")) == (a, a)
    c = put(ledger, "c")
    d = put(ledger, "d")
    settle(ledger, c, "superseded")
    assert ledger.wanted("toy") == d
    settle(ledger, d, "proven")
    assert (ledger.wanted("toy"), ledger.live("toy"), live(ledger.history("toy"))) == (d, d, d)
    assert [order.sequence for order in ledger.orders("toy")] == [1, 2, 3, 4]
    assert [order.previous for order in ledger.orders("toy")] == [None, "a" * 64, "a" * 64, "c" * 64]


def test_an_endpoint_falls_back_to_the_champion_and_no_further(ledger: Ledger) -> None:
    for letter in "ab":
        settle(ledger, put(ledger, letter), "proven")
    settle(ledger, put(ledger, "c"), "refused")
    put(ledger, "d")
    assert [(order.digest[0], bool(outcome)) for order, outcome in ledger.candidates("toy")] == [
        ("d", False),
        ("b", True),
    ]


def test_the_first_outcome_stands(ledger: Ledger) -> None:
    order = put(ledger, "a")
    first = settle(ledger, order, "refused")
    assert first.state == "refused"
    assert settle(ledger, order, "proven") == first
    assert Ledger(ledger.store).history("toy")[0][1] == first, "and when it was put"


def test_a_second_reader_sees_what_the_first_wrote_and_unknown_fields_are_kept(ledger: Ledger) -> None:
    order = put(ledger, "a", evidence={"verdict": "pass"})
    key = "ledger/toy/orders/00000001.json"
    older = {name: value for name, value in json.loads(ledger.store.get(key)).items() if name != "sha256"}
    ledger.store.put(key, json.dumps({**older, "weight": 0.1}).encode())
    read = Ledger(ledger.store).newest("toy")
    assert read is not None
    assert read.evidence == {"verdict": "pass"}
    assert read.model_dump()["weight"] == 0.1
    assert read.ordered_at == order.ordered_at


def test_an_entry_of_a_newer_format_is_refused_by_name(ledger: Ledger) -> None:
    put(ledger, "a")
    ledger.store.put("ledger/toy/orders/00000001.json", b'{"format": 2}')
    with pytest.raises(FormatTooNew, match=r"ledger/toy/orders/00000001\.json"):
        Ledger(ledger.store).history("toy")


def many_writers(stores: list[Store]) -> None:
    barrier = threading.Barrier(len(stores))
    checked: list[int] = []

    def write(number: int) -> Order:
        ledger = Ledger(stores[number])
        barrier.wait()

        def check(history: Any) -> None:
            checked.append(len(history))

        return put(ledger, "0123456789abcdef"[number], who=f"writer {number}", check=check)

    with ThreadPoolExecutor(len(stores)) as pool:
        orders = list(pool.map(write, range(len(stores))))
    history = Ledger(stores[0]).orders("toy")
    assert [order.sequence for order in history] == list(range(1, len(stores) + 1))
    assert sorted(orders, key=lambda order: order.sequence) == history
    assert {order.who for order in history} == {f"writer {number}" for number in range(len(stores))}
    assert [order.previous for order in history[1:]] == [order.digest for order in history[:-1]]
    assert set(checked) >= set(range(len(stores))), "each order was checked against the history that it followed"


def test_sixteen_writers_get_a_total_order_in_a_folder(tmp_path: Path) -> None:
    many_writers([open_store(str(tmp_path)) for _ in range(16)])


def test_eight_writers_get_a_total_order_on_s3(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("deployer").items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{s3.registry}/ledger-{uuid4().hex}")
    many_writers([store] * 8)  # one client: boto3's are thread-safe, and eight would cost half a second each


def test_a_check_that_raises_writes_nothing(ledger: Ledger) -> None:
    def check(history: Any) -> None:
        raise RuntimeError("a rule")

    with pytest.raises(RuntimeError, match="a rule"):
        put(ledger, "a", check=check)
    assert ledger.store.list("") == []


def test_a_put_that_was_sent_twice_is_known_by_its_id(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try arrived, its answer did not: the second is told that the key exists."""
    put_new = ledger.store.put_new

    def deaf(key: str, data: bytes) -> bool:
        put_new(key, data)
        return False

    monkeypatch.setattr(ledger.store, "put_new", deaf)
    assert put(ledger, "a").sequence == 1
    assert len(ledger.orders("toy")) == 1


KILLED_WRITER = """
import sys, os, signal
from datetime import timedelta
from nightshift.releases.ledger import Ledger
from nightshift.releases.store import open_store
ledger = Ledger(open_store(sys.argv[1]))
ledger.order("toy", digest="b" * 64, model_digest="b" * 64, who="night", what="deploy", reason="r", evidence={},
             deadline=timedelta(seconds=0))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_killed_after_its_order_stops_no_reader_and_no_writer(ledger: Ledger) -> None:
    settle(ledger, put(ledger, "a"), "proven")
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, ledger.store.url], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert ledger.wanted("toy").digest == "b" * 64
    wait_for(lambda: ledger.clock() >= ledger.wanted("toy").deadline, 5)  # its clock may run a millisecond behind
    assert put(ledger, "c").sequence == 3
    assert [outcome and outcome.state for _, outcome in ledger.history("toy")] == ["proven", None, None]


def test_a_model_that_a_person_rolled_back_from_is_barred_whatever_its_release_is_called(ledger: Ledger) -> None:
    settle(ledger, put(ledger, "a"), "proven")
    settle(ledger, put(ledger, "b"), "proven")
    assert barred(ledger.history("toy"), "b" * 64) is None
    settle(ledger, put(ledger, "a", "rollback", who="kim", reason="cats became dogs"), "proven")
    assert "kim rolled back" in barred(ledger.history("toy"), "b" * 64)
    assert "cats became dogs" in barred(ledger.history("toy"), "b" * 64)
    assert barred(ledger.history("toy"), "a" * 64) is None


def test_a_person_who_orders_it_again_lifts_the_bar(ledger: Ledger) -> None:
    settle(ledger, put(ledger, "a"), "proven")
    settle(ledger, put(ledger, "b"), "proven")
    settle(ledger, put(ledger, "a", "rollback"), "proven")
    settle(ledger, put(ledger, "b", "promote"), "proven")
    assert barred(ledger.history("toy"), "b" * 64) is None


def test_a_rollback_takes_an_order_on_its_way_with_it(ledger: Ledger) -> None:
    settle(ledger, put(ledger, "a"), "proven")
    put(ledger, "b")
    put(ledger, "a", "rollback")
    assert barred(ledger.history("toy"), "b" * 64)


@pytest.mark.parametrize(("fault", "is_barred"), [("release", True), (None, True), ("endpoint", False)])
def test_a_refused_model_is_barred_unless_only_the_endpoint_was_away(
    ledger: Ledger, fault: Any, is_barred: bool
) -> None:
    settle(ledger, put(ledger, "a"), "refused", fault=fault)
    assert bool(barred(ledger.history("toy"), "a" * 64)) is is_barred


def test_a_rollback_goes_to_the_champion_before_and_a_second_one_further(ledger: Ledger) -> None:
    assert rollback_target(ledger.newest_first("toy"), ALL) is None
    settle(ledger, put(ledger, "a"), "proven")
    assert rollback_target(ledger.newest_first("toy"), ALL) is None
    settle(ledger, put(ledger, "b"), "proven")
    settle(ledger, put(ledger, "d"), "refused")
    settle(ledger, put(ledger, "c"), "proven")
    for expected in "ba":
        target = rollback_target(ledger.newest_first("toy"), ALL)
        assert target.digest[0] == expected
        settle(ledger, put(ledger, expected, "rollback"), "proven")
    assert rollback_target(ledger.newest_first("toy"), ALL) is None


def test_a_rollback_may_go_back_to_what_a_person_ordered_again_after_an_earlier_one(ledger: Ledger) -> None:
    for letter, what in (("a", "deploy"), ("b", "deploy"), ("a", "rollback"), ("b", "promote"), ("c", "deploy")):
        settle(ledger, put(ledger, letter, what), "proven")
    assert rollback_target(ledger.newest_first("toy"), ALL).digest[0] == "b"


def champions(ledger: Ledger, letters: str) -> None:
    for letter in letters:
        settle(ledger, put(ledger, letter), "proven")


def damage(ledger: Ledger, what: str, sequence: int) -> str:
    """Flip a byte of an entry; its key."""
    key = f"ledger/toy/{what}/{sequence:08d}.json"
    ledger.store.put(key, ledger.store.get(key).replace(b'"', b"'", 1))
    return key


@pytest.mark.parametrize("what", ["orders", "outcomes"])
def test_a_damaged_entry_older_than_the_champions_stops_no_person_and_is_told_once(ledger: Ledger, what: str) -> None:
    champions(ledger, "abc")
    settle(ledger, put(ledger, "d"), "refused")
    key, told = damage(ledger, what, 2), []
    persons = Ledger(ledger.store).passing_over(told.append)
    assert [order.digest[0] for order, _ in persons.history("toy")] == ["a", "c", "d"]
    order = put(persons, "e", "promote")
    assert (order.sequence, order.previous) == (5, "c" * 64)
    assert [key in error.message for error in told] == [True]
    with pytest.raises(ReleaseCorrupt, match=key):
        put(Ledger(ledger.store), "f")


@pytest.mark.parametrize(("what", "sequence"), [("orders", 2), ("outcomes", 2), ("orders", 3), ("outcomes", 3)])
def test_a_damaged_entry_of_the_champion_or_after_it_stops_everybody(ledger: Ledger, what: str, sequence: int) -> None:
    champions(ledger, "ab")
    settle(ledger, put(ledger, "c"), "refused")
    key, told = damage(ledger, what, sequence), []
    with pytest.raises(ReleaseCorrupt, match=key):
        put(Ledger(ledger.store).passing_over(told.append), "d", "promote")
    assert told == []
    assert len(ledger.store.list("ledger/toy/orders/")) == 3


def test_where_nothing_serves_a_damaged_entry_may_be_the_champions(ledger: Ledger) -> None:
    settle(ledger, put(ledger, "a"), "proven")
    settle(ledger, put(ledger, "b"), "refused")
    damage(ledger, "orders", 1)
    with pytest.raises(ReleaseCorrupt):
        put(Ledger(ledger.store).passing_over(lambda _: None), "c", "promote")


def test_a_rollback_reads_nothing_older_than_what_it_goes_back_to(ledger: Ledger) -> None:
    champions(ledger, "abc")
    damage(ledger, "orders", 1)
    assert rollback_target(Ledger(ledger.store).newest_first("toy"), ALL).digest[0] == "b"
    damage(ledger, "orders", 2)
    with pytest.raises(ReleaseCorrupt, match=r"orders/00000002\.json"):
        rollback_target(Ledger(ledger.store).newest_first("toy"), ALL)
