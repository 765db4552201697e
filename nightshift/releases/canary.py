"""Is the canary worse than its champion? Looked at all the time, and wrong once in a hundred canaries at most.

A coin of its weight sends a request to the canary. If the canary were like the champion, then of any kind of event (an
error, an answer slower than so many seconds, the answer "ship") its share would be its weight, whatever the traffic
does meanwhile. So that share is tested, event by event, by a bet at fair odds against "its share is no greater": the
bettor's capital reaches 1/alpha with probability alpha at most, at any time (Ville's inequality), so looking at every
moment and stopping at the first proof costs nothing. Several tests share alpha.
"""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx
import numpy as np

from nightshift.releases.errors import ReleaseError
from nightshift.releases.ledger import Canary, Ledger, Order, Outcome, now, superseded

ALPHA = 0.01  # how often a canary that is no worse is refused
MOST_ANSWERS = 1000  # classes; of a model with more, answers are not compared
# Seconds, each the square root of 2 times the one before: 0.25 ms to 8 s.
EDGES = tuple(0.00025 * 2 ** (step / 2) for step in range(31))
_LOOK_S = 1.0
_SILENT_S = 15.0  # an endpoint that does not answer for so long while the canary is tried
_PLENTY = 100_000  # events of one kind: a test that found nothing in so many is not fed any more


class Judge:
    """Sees the counts of all processes grow, and says what is wrong. ``classes`` is how many answers there are."""

    def __init__(self, canary: Canary, classes: int = 0):
        self.canary = canary
        self.requests = {"champion": 0, "canary": 0}
        self._classes = classes if classes <= MOST_ANSWERS else 0
        self._seen: dict[str, dict[str, Any]] = {}
        self._tests: dict[str, Any] = {}
        self._dice = np.random.default_rng(0)
        self._fault = ""

    def see(self, source: str, counts: dict[str, Any]) -> None:
        """The counts per role of one process so far; ``source`` tells processes apart."""
        before = self._seen.get(source, {})
        if any(before[role]["requests"] > counts[role]["requests"] for role in before):
            before = {}  # it was started again under the same number, as in a container: it counts anew
        self._seen[source] = counts
        new = {role: _since(before.get(role), counts[role]) for role in ("champion", "canary")}
        for role in new:
            self.requests[role] += new[role]["requests"]
        self._judge(new["champion"], new["canary"])

    def fault(self) -> str:
        """What is proven against the canary, in words; empty while nothing is."""
        return self._fault

    def enough(self) -> bool:
        return self.requests["canary"] >= self.canary.requests

    def _judge(self, champion: dict[str, Any], canary: dict[str, Any]) -> None:
        weight, times = self.canary.weight, self.canary.times
        self._bet("it fails more often than the champion", champion["errors"], canary["errors"], weight, ALPHA / 3)
        # A canary that takes up to ``times`` as long is as often above an edge as the champion is above edge/times.
        steps = round(2 * np.log2(times))
        for at in range(steps, len(EDGES)):
            self._bet(
                f"it takes more than {times:g} times as long as the champion: {EDGES[at] * 1000:.1f} ms and more",
                sum(champion["seconds"][at - steps + 1 :]),
                sum(canary["seconds"][at + 1 :]),
                weight,
                ALPHA / 3 / (len(EDGES) - steps),
            )
        for answer in {*champion["answers"], *canary["answers"]} if self._classes else ():
            told = champion["answers"].get(answer, 0), canary["answers"].get(answer, 0)
            alpha = ALPHA / 3 / (2 * self._classes)
            most = weight * times / (weight * times + 1 - weight)
            least = weight / (weight + times * (1 - weight))
            self._bet(f"it answers {answer} more than {times:g} times as often", *told, most, alpha)
            self._bet(f"it answers {answer} less than 1/{times:g} times as often", *told, least, alpha, "less")

    def _bet(
        self, claim: str, champion: int, canary: int, share: float, alpha: float, alternative: str = "greater"
    ) -> None:
        if not champion + canary or self._fault:
            return
        test = self._tests.get(claim)
        if test is None:
            test = self._tests[claim] = _betting_test()(share, alternative=alternative, alpha=alpha)
        if test.n_ > _PLENTY:
            return
        # In which order they came between two looks is not known: any that does not depend on the role is as good.
        events = self._dice.permutation(np.repeat([1.0, 0.0], [canary, champion]))
        test.update(events[:_PLENTY])
        if test.rejected_:
            requests = f"{self.requests['canary']} requests of the canary, {self.requests['champion']} of the champion"
            self._fault = f"{claim} ({requests})"


def demand_library() -> None:
    """Raises ReleaseError when what judges a canary is not installed: before anything is ordered."""
    _betting_test()


def observe(
    client: httpx.Client,
    endpoints: Sequence[str],
    ledger: Ledger,
    order: Order,
    classes: int,
    say: Callable[[str], None],
) -> Outcome:
    """Watch a canary that every endpoint tries until it is proven to be worse, overtaken, or its time is over.

    Writes nothing: the caller settles the order with the returned outcome.
    """
    canary = order.canary or Canary(weight=0.1)
    judge = Judge(canary, classes)
    until = time.monotonic() + timedelta(minutes=canary.minutes).total_seconds()
    answered = dict.fromkeys(endpoints, time.monotonic())
    said = time.monotonic()
    while True:
        newest = ledger.newest(order.model)
        if newest and newest.sequence > order.sequence:
            return superseded(newest)
        over = time.monotonic() > until
        for url in endpoints:
            refused = _look(client, url, order, judge)
            if refused is None and time.monotonic() - answered[url] > _SILENT_S:
                reason = f"{url} does not answer since {_SILENT_S:.0f} s, while the canary was tried there"
                return Outcome(state="refused", reason=reason, fault="endpoint", at=now())
            if refused is not None:
                answered[url] = time.monotonic()
            fault = refused or judge.fault()
            if fault:
                return Outcome(state="refused", reason=f"as a canary: {fault}", fault="release", at=now())
        counted = f"{judge.requests['canary']} requests in {canary.minutes:g} minutes"
        if over and judge.enough():
            reason = f"as a canary no worse than the champion in {counted}"
            return Outcome(state="proven", reason=reason, replicas=tuple(endpoints), at=now())
        if over:
            reason = f"inconclusive as a canary: {counted}, {canary.requests} were asked for"
            return Outcome(state="refused", reason=reason, fault="endpoint", at=now())
        if time.monotonic() - said > 60:
            said = time.monotonic()
            say(f"the canary answered {judge.requests['canary']} requests; nothing speaks against it")
        time.sleep(_LOOK_S)


def _look(client: httpx.Client, url: str, order: Order, judge: Judge) -> str | None:
    """Let the judge see one endpoint's counts: its own refusal, "" when there is none, None when it is silent."""
    try:
        answer = client.get(f"{url}/status")
        if answer.status_code != 200:
            return None
        for process in answer.json()["processes"]:
            of_model = process["models"][order.model]
            refused, canary = of_model["refused"], of_model["canary"]
            if refused and refused["sequence"] == order.sequence:
                return f"{url} refuses it: {refused['reason']}"
            if canary and canary["sequence"] == order.sequence:
                judge.see(f"{url} {process['pid']}", canary["counts"])
    except (httpx.HTTPError, KeyError, ValueError, TypeError):
        return None
    return ""


def _since(before: dict[str, Any] | None, counts: dict[str, Any]) -> dict[str, Any]:
    if before is None:
        return counts
    return {
        "requests": counts["requests"] - before["requests"],
        "errors": counts["errors"] - before["errors"],
        "seconds": [new - old for new, old in zip(counts["seconds"], before["seconds"], strict=True)],
        "answers": {answer: n - before["answers"].get(answer, 0) for answer, n in counts["answers"].items()},
    }


def _betting_test() -> Any:
    try:
        from ville import BettingTest
    except ImportError as error:
        raise ReleaseError(f"judging a canary needs {error.name}", "in a clone: pip install '.[canary]'") from error
    return BettingTest
