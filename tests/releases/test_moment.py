"""What served when: from the outcomes of a history whose times are known."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightshift.releases.ledger import Order, Outcome
from nightshift.releases.marks import Mark
from nightshift.releases.moment import at

DAY = datetime.fromisoformat("2026-11-24T00:00:00+00:00")


def hour(number: float) -> datetime:
    return DAY + timedelta(hours=number)


def entry(sequence: int, ordered: float, settled: float | None = None, state: Any = "proven") -> Any:
    order = Order(sequence=sequence, id="i", model="toy", digest=f"{sequence:064x}", model_digest=f"{sequence:064x}",
                  previous=None, who="night", what="deploy", reason="r", ordered_at=hour(ordered),
                  deadline=hour(ordered + 1))  # fmt: skip
    return order, None if settled is None else Outcome(state=state, reason="r", at=hour(settled))


HISTORY = [entry(1, 3, 3.5), entry(2, 5, 5.5, "refused"), entry(3, 7, 8), entry(4, 9)]


@pytest.mark.parametrize(
    ("when", "champion", "under_way"),
    [
        (2, None, []),
        (3.2, None, [1]),
        (3.5, 1, []),
        (5.2, 1, [2]),
        (6, 1, []),
        (7.5, 1, [3]),
        (8.5, 3, []),
        (100, 3, [4]),
    ],
)
def test_the_champion_of_a_moment_is_what_was_proven_by_then_and_what_was_on_its_way_is_named(
    when: float, champion: int | None, under_way: list[int]
) -> None:
    found = at(HISTORY, [], hour(when))
    assert (found.champion and found.champion[0].sequence) == champion
    assert [order.sequence for order, _ in found.under_way] == under_way


def test_a_retired_model_serves_nothing_from_then_on_until_that_is_undone(tmp_path: Path) -> None:
    def mark(sequence: int, when: float, **more: Any) -> Mark:
        return Mark(sequence=sequence, id="i", model="toy", what="retire", digest=None, who="kim", reason="r",
                    at=hour(when), **more)  # fmt: skip

    marks = [mark(1, 10), mark(2, 12, undo=True)]
    assert [bool(at(HISTORY, marks, hour(when)).retired) for when in (9.5, 11, 13)] == [False, True, False]
