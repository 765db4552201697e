"""What served at a moment, answered from outcomes.

Between an order and its outcome some replicas may have answered with the old release and some with the new one: both
are named, nothing is guessed. Times are by the clock of the ledger's store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nightshift.releases.ledger import History, Order, Outcome
from nightshift.releases.marks import Mark


@dataclass(frozen=True)
class Moment:
    """``champion`` was proven by then. Of ``under_way`` (newest first) each was ordered by then and settled later or
    never, so that replicas may have answered with it. ``retired`` ended the model before."""

    champion: tuple[Order, Outcome] | None
    under_way: list[tuple[Order, Outcome | None]]
    retired: Mark | None


def at(history: History, marks: Sequence[Mark], when: datetime) -> Moment:
    """What served at ``when`` (with a time zone); ``history`` and ``marks`` are one model's, oldest first."""
    proven = [(o, out) for o, out in history if o.kind == "champion" and out and out.state == "proven"]
    champion = next((entry for entry in reversed(proven) if entry[1].at <= when), None)
    under_way = [
        (order, outcome)
        for order, outcome in reversed(history)
        if order.ordered_at <= when
        and (outcome is None or outcome.at > when)
        and (champion is None or order.sequence > champion[0].sequence)
    ]
    said = [mark for mark in marks if mark.what == "retire" and mark.digest is None and mark.at <= when]
    return Moment(champion, under_way, said[-1] if said and not said[-1].undo else None)
