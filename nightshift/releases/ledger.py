"""The ledger: what serves, and why. Append-only; an entry is an order, its outcome stands beside it.

    ledger/<model>/orders/00000007.json      create-only: of two writers one gets the number, the other decides again
    ledger/<model>/outcomes/00000007.json    create-only: proven, refused, or superseded by a newer order

Endpoints serve the newest order that is proven or has no outcome yet. The champion is the newest proven one. An order
of the kind "canary" makes no champion: while it is the newest and has no outcome, endpoints give its release a share of
the requests; proven means that an order for a champion may follow. A writer that dies leaves an order without outcome,
never a gap: the next writer settles it after its deadline. All times are the store's, whatever the writers' clocks say.
"""

import copy
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nightshift.releases import entries
from nightshift.releases.clock import Clock
from nightshift.releases.entries import FORMAT, Entries
from nightshift.releases.errors import ReleaseCorrupt
from nightshift.releases.manifest import Name, Sha256
from nightshift.releases.store import Store

SLOWER = 10.0  # times as long as the champion's that golden requests may take, unless somebody says otherwise


class Canary(BaseModel):
    """How a release is tried beside the champion before it may take its place.

    ``weight`` is its share of the requests that name no version; ``requests`` is how many it must have answered within
    ``minutes``. It is refused when it fails more often than the champion, is slower by more than ``times``, or gives
    an answer more often than ``times`` as often, or less often than one in ``times``.
    """

    model_config = ConfigDict(frozen=True)

    weight: float = Field(gt=0, lt=1)
    minutes: float = Field(default=30, gt=0)
    requests: int = Field(default=500, ge=1)
    times: float = Field(default=2.0, gt=1)


class Order(entries.Entry):
    """Serve this release. ``previous`` is the digest that endpoints served or were to serve before it.

    ``what`` "deploy" is a night's, "promote" and "rollback" are a person's. ``away_from`` holds the model digests that
    a rollback takes away, which no night orders again. ``id`` tells two writers of equal orders apart. An order of
    the kind "canary" says how it is tried in ``canary``. Endpoints refuse a release whose golden requests take more
    than ``slower`` times as long as the champion's; None does not bind.
    """

    format: int = FORMAT
    sequence: int = Field(ge=1)
    id: str
    model: Name
    kind: Literal["champion", "canary"] = "champion"
    canary: Canary | None = None
    slower: float | None = None
    digest: Sha256
    model_digest: Sha256
    previous: Sha256 | None
    who: str
    what: Literal["deploy", "promote", "rollback"]
    reason: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    away_from: tuple[str, ...] = ()
    ordered_at: AwareDatetime
    deadline: AwareDatetime

    def own_key(self) -> str:
        return f"ledger/{self.model}/orders/{self.sequence:08d}.json"

    def outcome_key(self) -> str:
        return f"ledger/{self.model}/outcomes/{self.sequence:08d}.json"


class Outcome(entries.Entry):
    """What became of an order. ``replicas`` are the endpoint URLs that proved it.

    ``fault`` says, of a refusal, whether the release did not hold up or no endpoint could be asked: only the first
    tells anything about the release. ``at`` is when it was put, by the ledger's clock, whatever
    ``settle`` is given: from then on it counts, and as the first outcome stands, nothing changes it.
    """

    format: int = FORMAT
    state: Literal["proven", "refused", "superseded"]
    reason: str
    fault: Literal["release", "endpoint"] | None = None
    replicas: tuple[str, ...] = ()
    at: AwareDatetime


History = list[tuple[Order, Outcome | None]]
_ORDER = re.compile(r"ledger/([^/]+)/orders/[0-9]{8,}\.json")  # what else lies there, such as a copy, is none


def now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """Reads and writes the ledger of a store.

    Whatever reads an entry raises ReleaseCorrupt when it is damaged, FormatTooNew when it is newer than this code.
    """

    def __init__(self, store: Store):
        self.store = store
        self.clock = Clock(store)
        self._entries = Entries(store)
        self._pass_over: Callable[[ReleaseCorrupt], None] | None = None

    def models(self) -> list[str]:
        """Models with at least one order."""
        return sorted({found[1] for key in self.store.list("ledger/") if (found := _ORDER.fullmatch(key))})

    def forget(self) -> None:
        """Read everything again: the store is another than it was."""
        self._entries.forget()

    def passing_over(self, tell: Callable[[ReleaseCorrupt], None]) -> Self:
        """This ledger, as it is read where only what serves matters: by a person's order.

        A damaged entry that is older than the champion's order is told, once, and is in no history. One that is newer
        may be what serves, and is an error here too.
        """
        told: set[str] = set()

        def pass_over(error: ReleaseCorrupt) -> None:
            if error.message not in told:
                told.add(error.message)
                tell(error)

        ledger = copy.copy(self)
        ledger._pass_over = pass_over
        return ledger

    def newest(self, model: str) -> Order | None:
        """The order with the highest number, whatever became of it."""
        keys = self._order_keys(model)
        return self._entries.get(keys[-1], Order) if keys else None

    def orders(self, model: str) -> list[Order]:
        """All orders, oldest first."""
        return [order for order, _ in self.history(model)]

    def history(self, model: str) -> History:
        """All orders with their outcomes (None while there is none), oldest first."""
        return list(reversed(list(self.newest_first(model))))

    def newest_first(self, model: str) -> Iterator[tuple[Order, Outcome | None]]:
        """The same, newest first and lazily: who needs the champion does not read a year of orders."""
        outcomes = set(self.store.list(f"ledger/{model}/outcomes/"))
        is_older = False  # than the champion's order
        # Orders are listed after outcomes: what was settled in between is read as not yet settled, never the reverse.
        for key in reversed(self._order_keys(model)):
            try:
                order = self._entries.get(key, Order)
                beside = order.outcome_key()
                outcome = self._entries.get(beside, Outcome) if beside in outcomes else None
            except ReleaseCorrupt as error:
                if self._pass_over is None or not is_older:
                    raise
                self._pass_over(error)
                continue
            is_older = is_older or _is_champion(order, outcome)
            yield order, outcome

    def candidates(self, model: str) -> Iterator[tuple[Order, Outcome | None]]:
        """What an endpoint may serve, best first: orders without outcome, newest first, then the champion, proven."""
        for order, outcome in self.newest_first(model):
            if order.kind == "canary":
                continue
            if outcome is None or outcome.state == "proven":
                yield order, outcome
            if outcome is not None and outcome.state == "proven":
                return

    def canary(self, model: str) -> Order | None:
        """The canary that endpoints try: the newest order, if it is one and has no outcome yet."""
        order, outcome = next(self.newest_first(model), (None, None))
        return order if order and order.kind == "canary" and outcome is None else None

    def live(self, model: str) -> Order | None:
        """The champion: the newest proven order that is no canary's."""
        return next((order for order, outcome in self.newest_first(model) if _is_champion(order, outcome)), None)

    def wanted(self, model: str) -> Order | None:
        """What endpoints serve: the newest order that is proven or has no outcome yet."""
        return next((order for order, _ in self.candidates(model)), None)

    def order(
        self,
        model: str,
        *,
        digest: str,
        model_digest: str,
        who: str,
        what: Literal["deploy", "promote", "rollback"],
        reason: str,
        evidence: dict[str, Any],
        deadline: timedelta,
        canary: Canary | None = None,
        slower: float | None = None,
        check: Callable[[History], None] | None = None,
    ) -> Order:
        """Put an order under the next number, as often as it takes.

        ``check`` gets the history that this order would follow, each time again when another writer was faster; what
        it raises ends the attempt with nothing written.
        """
        identity = uuid4().hex
        while True:
            history = self.history(model)
            if check:
                check(history)
            before = now_serving(history)
            champion = live(history)
            taken_away = {o.model_digest for o in (before, champion) if o and what == "rollback"} - {model_digest}
            at = self.clock()
            order = Order(
                sequence=history[-1][0].sequence + 1 if history else 1,
                id=identity,
                model=model,
                digest=digest,
                model_digest=model_digest,
                kind="canary" if canary else "champion",
                canary=canary,
                slower=slower,
                previous=before.digest if before else None,
                who=who,
                what=what,
                reason=reason,
                evidence=evidence,
                away_from=tuple(sorted(taken_away)),
                ordered_at=at,
                deadline=at + deadline,
            )
            key = order.own_key()
            # A put that timed out and was sent again finds its own first try: ours by the id, not by the answer.
            if self.store.put_new(key, entries.dump(order)) or self._entries.get(key, Order).id == identity:
                return order

    def settle(self, order: Order, outcome: Outcome) -> Outcome:
        """Put the outcome beside its order, with the ledger's time; returns the one that stands, maybe another's."""
        key = order.outcome_key()
        self.store.put_new(key, entries.dump(outcome.model_copy(update={"at": self.clock()})))
        return self._entries.get(key, Outcome)

    def _order_keys(self, model: str) -> list[str]:
        return [key for key in self.store.list(f"ledger/{model}/orders/") if _ORDER.fullmatch(key)]


def superseded(newer: Order) -> Outcome:
    """The outcome of whatever was ordered before it."""
    return Outcome(state="superseded", reason=f"superseded by order {newer.sequence}", at=now())


def live(history: Sequence[tuple[Order, Outcome | None]]) -> Order | None:
    """The champion of a history (oldest first): its newest proven order that is no canary's."""
    return next((order for order, outcome in reversed(history) if _is_champion(order, outcome)), None)


def now_serving(history: Sequence[tuple[Order, Outcome | None]]) -> Order | None:
    """The newest order by which endpoints serve, or are about to: a canary while it is tried, else a champion."""
    return next((order for order, out in reversed(history) if out is None or _is_champion(order, out)), None)


def _is_champion(order: Order, outcome: Outcome | None) -> bool:
    return order.kind == "champion" and outcome is not None and outcome.state == "proven"


def barred(history: Sequence[tuple[Order, Outcome | None]], model_digest: str) -> str | None:
    """Why no night may order this model, in words; None when one may.

    A person rolled back from it (until a person orders it again), or its newest order was refused for its own fault.
    """
    rolled_back: Order | None = None
    newest: tuple[Order, Outcome | None] | None = None
    for order, outcome in history:
        if model_digest in order.away_from:
            rolled_back = order
        if order.model_digest == model_digest:
            newest = (order, outcome)
            if order.what != "deploy":
                rolled_back = None
    if rolled_back:
        return f"{rolled_back.who} rolled back from this model with order {rolled_back.sequence}: {rolled_back.reason}"
    if newest and newest[1] and newest[1].state == "refused" and newest[1].fault != "endpoint":
        return f"order {newest[0].sequence} of this model was refused: {newest[1].reason}"
    return None


def rollback_target(newest_first: Iterable[tuple[Order, Outcome | None]], among: Container[str]) -> Order | None:
    """What a rollback goes back to when nobody names it: the newest champion before the model that serves now.

    While a canary is tried, that is the champion beside it. Models that a person has rolled back from since are passed
    over, so that a second rollback goes further back; so are the releases (digests) that are not ``among`` these.
    Nothing is read that is older than what it finds.
    """
    serving, passed_over = False, set[str]()
    for order, outcome in newest_first:
        if not serving and (outcome is None or _is_champion(order, outcome)):
            serving = True
            passed_over.add(order.model_digest)
        elif _is_champion(order, outcome) and order.model_digest not in passed_over and order.digest in among:
            return order
        passed_over.update(order.away_from)
    return None
