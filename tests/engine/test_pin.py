"""Pin: the opponent's file changes only when a look at the test rows is due."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from nightshift.engine.pin import decide
from nightshift.releases import manifest as manifests
from nightshift.releases.ledger import Ledger, Order, Outcome, now
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
from tests.engine.conftest import World

NEW = {"digest": None, "test": None, "looks": 0, "promotions": 0, "judged": None}
FIRST, SECOND = "1" * 64, "2" * 64


def hashes(program: str, test: str = "t1") -> dict[str, str]:
    return {"artifacts/models/m/model.onnx": program, "artifacts/datasets/d/test": test}


def live(digest: str, what: Literal["deploy", "rollback"] = "deploy") -> Order:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Order(sequence=1, id="x", model="m", digest=digest, model_digest=digest, previous=None, who="w", what=what,
                 reason="r", ordered_at=at, deadline=at + timedelta(seconds=1))  # fmt: skip


def built(program: str) -> dict[str, str]:
    return {"artifacts/models/m/model.onnx": program}


def test_three_nights_in_the_third_the_challenger_meets_the_first_nights_champion() -> None:
    first, _ = decide(NEW, None, {}, "m", hashes("p1"))
    assert first == {"digest": None, "test": "t1", "looks": 1, "promotions": 0, "judged": "p1"}
    # It was promoted; nothing new: the challenger is what serves.
    second, _ = decide(first, live(FIRST), built("p1"), "m", hashes("p1"))
    assert second == first
    third, _ = decide(second, live(FIRST), built("p1"), "m", hashes("p2"))
    assert third == {"digest": FIRST, "test": "t1", "looks": 2, "promotions": 1, "judged": "p2"}
    # It did not pass; the night after repeats nothing and counts nothing.
    assert decide(third, live(FIRST), built("p1"), "m", hashes("p2"))[0] == third


def test_the_first_challenger_that_failed_is_not_judged_again() -> None:
    first, _ = decide(NEW, None, {}, "m", hashes("p1"))
    assert decide(first, None, {}, "m", hashes("p1"))[0] == first


def test_a_challenger_meets_a_new_champion_again() -> None:
    before = {"digest": FIRST, "test": "t1", "looks": 2, "promotions": 1, "judged": "p2"}
    after, _ = decide(before, live(SECOND), built("p9"), "m", hashes("p2"))
    assert after == {"digest": SECOND, "test": "t1", "looks": 3, "promotions": 2, "judged": "p2"}


def test_a_rollback_is_no_promotion() -> None:
    before = {"digest": SECOND, "test": "t1", "looks": 2, "promotions": 1, "judged": "p2"}
    after, _ = decide(before, live(FIRST, "rollback"), built("p1"), "m", hashes("p3"))
    assert (after["digest"], after["looks"], after["promotions"]) == (FIRST, 3, 1)


def test_other_test_rows_start_the_counts_again() -> None:
    before = {"digest": FIRST, "test": "t1", "looks": 7, "promotions": 3, "judged": "p2"}
    after, _ = decide(before, live(FIRST), built("p1"), "m", hashes("p3", "t2"))
    assert (after["test"], after["looks"], after["promotions"]) == ("t2", 1, 0)


def test_rows_that_join_the_frozen_ones_do_not_start_the_counts_again_and_fresh_ones_do() -> None:
    before = {"digest": FIRST, "test": "t1", "edition": "start", "looks": 7, "promotions": 3, "judged": "p2"}
    more, _ = decide(before, live(FIRST), built("p1"), "m", hashes("p3", "t2"), {"edition": "start"})
    assert (more["test"], more["looks"], more["promotions"]) == ("t2", 8, 3)
    fresh, _ = decide(more, live(FIRST), built("p1"), "m", hashes("p4", "t3"), {"edition": "2026-02-01"})
    assert (fresh["edition"], fresh["looks"], fresh["promotions"]) == ("2026-02-01", 1, 0)


def test_looks_at_a_window_that_moves_are_those_that_shared_a_day_with_it() -> None:
    def window(first: int, newest: int) -> dict[str, str]:
        return {"split": "time", "edition": f"2026-01-{first:02}", "newest": f"2026-01-{newest:02}"}

    file = {**NEW, "test": "t0", "edition": "start", "looks": 7, "promotions": 3}  # its rows were others
    counts = []
    serves = FIRST
    for night, (first, newest) in enumerate([(1, 3), (2, 4), (3, 5), (3, 5), (4, 6), (7, 9)]):
        file, _ = decide(file, live(serves), built("p"), "m", hashes(f"p{night}", f"t{night}"), window(first, newest))
        counts.append((file["looks"], file["promotions"]))
        if night == 1:  # the second night's challenger passed
            serves = SECOND
    #                 of 3,4  of 3,4,5        of 4,5,5,6: 3 is gone  of 9 alone
    assert counts == [(1, 0), (2, 0), (3, 1), (4, 1), (4, 1), (1, 0)]
    assert (file["edition"], file["looked"]) == ("2026-01-07", [{"newest": "2026-01-09", "promoted": False}])
    fixed, _ = decide(file, live(serves), built("p"), "m", hashes("p9", "t9"), {"split": "hash", "edition": "start"})
    assert (fixed["looks"], fixed.get("looked")) == (1, None)


def test_fields_of_a_newer_version_are_kept() -> None:
    assert decide(NEW | {"more": 1}, None, {}, "m", hashes("p1"))[0]["more"] == 1


def test_pin_reads_the_ledger_and_evaluate_meets_what_serves(world: World, run: str, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    for name in ("model.onnx", "golden.json"):
        (folder / name).write_text("{}")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1]}
    lineage = {"train_outputs": {"artifacts/models/m1/model.onnx": "0" * 32}}
    manifest = manifests.build(folder, model="m1", task="t", signature={"inputs": [tensor], "outputs": [tensor]},
                               input={"kind": "tensor"}, lineage=lineage, verdict="pass")  # fmt: skip
    with world.settings_of():
        manifests.write(folder, manifest)
        store = open_store(world.environment["NIGHTSHIFT_REGISTRY"])
        digest = Registry(store).publish(folder)
        ledger = Ledger(store)
        order = ledger.order("m1", digest=digest, model_digest=manifest.model_digest, who="w", what="deploy",
                             reason="r", evidence={}, deadline=timedelta(seconds=9))  # fmt: skip
        ledger.settle(order, Outcome(state="proven", reason="ok", replicas=(), at=now()))
    here = ("--dag", "train_m1", "--run", run)
    # The challenger of the first night met nobody; now somebody serves, so it is judged against them.
    world.engine("begin", *here)
    world.engine("stage", "train@m1", *here)
    ran = world.engine("pin", "m1", *here)
    assert (ran.outcome, ran.receipt["champion"]["digest"]) == ("done", digest)
    assert world.engine("stage", "evaluate@m1", *here).receipt["changed"] == ["opponent champions/m1.json"]
    world.engine("record", *here)
    assert json.loads(world.at_tip("champions/m1.json"))["digest"] == digest
    # Nothing new: the file is left, and nothing is evaluated.
    again = world.train_run(f"{run}-2")
    assert [again[verb].outcome for verb in ("pin", "evaluate", "record")] == ["unchanged", "unchanged", "nothing"]
