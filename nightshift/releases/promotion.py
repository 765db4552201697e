"""Order, proof, outcome: a night's deploy, a person's promote and a rollback are this one function.

A night stops at three rules that bind nobody else: what serves already is not ordered again (*unchanged*), what a
person rolled back from or what was refused is not ordered again (*barred*), and an order is put only while the model
that the gate met still serves (*fenced*). Only what passes them is signed, or lacks a key.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import httpx

from nightshift.releases import canary as canaries
from nightshift.releases import golden, proof
from nightshift.releases.errors import ReleaseConflict, ReleaseCorrupt, ReleaseError, ReleaseUnknown
from nightshift.releases.ledger import Canary, History, Ledger, Order, Outcome, barred, live, now, superseded
from nightshift.releases.manifest import GOLDEN, Manifest, short
from nightshift.releases.marks import Marks, retirement
from nightshift.releases.proof import prove, reachable, tell
from nightshift.releases.registry import Registry
from nightshift.releases.signing import SigningKey, sign

State = Literal["proven", "refused", "superseded", "fenced", "unchanged", "barred"]
What = Literal["deploy", "promote", "rollback"]

_PROBE = timedelta(seconds=5)  # for an order that its own writer left behind


@dataclass(frozen=True)
class Result:
    """What came of it. ``order`` is None when nothing was ordered; ``reason`` is a sentence for people."""

    state: State
    order: Order | None
    reason: str

    @property
    def exit_code(self) -> int:
        return {"refused": 1, "fenced": 3, "barred": 3}.get(self.state, 0)


class _Stop(Exception):
    """A rule ends the attempt."""

    def __init__(self, state: State, reason: str):
        super().__init__(reason)
        self.result = Result(state, None, reason)


class _Wait(Exception):
    """Another order is between order and outcome."""


def promote(
    registry: Registry,
    ledger: Ledger,
    model: str,
    digest: str,
    *,
    endpoints: Sequence[str],
    who: str,
    what: What,
    reason: str,
    evidence: dict[str, Any],
    deadline_s: float,
    fence: str | None = None,
    canary: Canary | None = None,
    slower: float | None = None,
    key: SigningKey | None = None,
    unsigned: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Make this release (full digest) the champion, and return only when that is proven or has failed.

    ``fence`` is the digest of the opponent that the gate met (None: there was none) and binds only "deploy". With a
    ``canary`` the release is tried beside the champion first, by an order of its own; what is not refused then becomes
    the champion by a second order. ``slower`` is how many times as long as the champion it may take (None: any).
    ``key`` signs what is ordered; only for a caller to whom the digest was named, not found in the ledger. Without one
    ``unsigned``, if given, is why nothing new may be ordered.
    A person is told of damaged entries that are older than the champion's order; a night, whose model one of them may
    bar, goes no further.
    Raises ReleaseUnknown or ReleaseCorrupt when the registry has no such whole release, or the ledger is damaged,
    StoreUnavailable, and ReleaseError, before anything is written, when an endpoint does not let this process ask what
    serves, or has no URL.
    """
    if what != "deploy":
        ledger = ledger.passing_over(
            lambda error: say(f"warning: {error.message}; it is older than what serves, and is passed over")
        )
    if canary:
        canaries.demand_library()
    urls = [url.rstrip("/") for url in endpoints if url.strip()]
    if not urls:
        return Result("refused", None, "no endpoint is set: name its URLs in NIGHTSHIFT_ENDPOINTS, comma-separated")
    manifest = registry.manifest(model, digest)
    requests = golden.load(registry.read(model, digest, GOLDEN))
    patience = timedelta(seconds=deadline_s)
    signed = {"signed_by": key.public.id} if key else {}

    gone = retirement(Marks(ledger.store).of(model), model, digest)
    if gone:  # binds people too: whoever means it takes the retirement back first
        return Result("barred", None, gone)

    with proof.http_client() as client:
        if what != "deploy" or _own_unsettled(ledger, model, digest) is None:  # what was ordered gets its outcome
            _demand_key(client, urls, say)
        _settle_left_behind(client, urls, registry, ledger, model, digest, say)
        if canary and not _is_to_be_tried(ledger.history(model), manifest, digest):
            canary = None

        def check(history: History) -> None:
            if what == "deploy":
                _demand_rules(history, registry, manifest, fence)
            elif canary:
                _alone(history)
            if key:  # before the order, which endpoints follow at once, and only if there will be one
                sign(registry, model, digest, key)
            elif unsigned:
                raise _Stop("refused", unsigned)

        order = None
        if what == "deploy":
            order = _own_unsettled(ledger, model, digest)
            if order is None:
                silent = _silent(client, urls, patience)
                if silent:  # an order that nobody can prove would only be refused
                    return Result("refused", None, f"{silent} does not answer, so nothing was ordered: start it first")
        try:
            while order is None:
                try:
                    order = ledger.order(
                        model,
                        digest=digest,
                        model_digest=manifest.model_digest,
                        who=who,
                        what=what,
                        reason=reason,
                        evidence={"verdict": manifest.verdict, **evidence, **signed},
                        deadline=patience + timedelta(minutes=canary.minutes if canary else 0),
                        canary=canary,
                        slower=slower,
                        check=check,
                    )
                except _Wait as other:
                    say(str(other))
                    time.sleep(0.5)
                    _settle_left_behind(client, urls, registry, ledger, model, digest, say)
                    order = _own_unsettled(ledger, model, digest)
        except _Stop as stop:
            return stop.result
        share = f" as a canary for {order.canary.weight:.0%} of the requests" if order.canary else ""
        say(f"order {order.sequence}: {model} {short(digest)}{share}")
        _supersede_older(ledger, order)
        removed = _removed(registry, order)
        if removed:
            return Result("refused", order, ledger.settle(order, removed).reason)
        # An adopted order of a run that died may be past its deadline: it gets the time that a new one would get.
        left = order.deadline - ledger.clock()
        within = patience if order.canary or left <= timedelta(0) else left
        outcome = prove(client, urls, ledger, order, requests, within, say)
        if order.canary and outcome.state == "proven":  # it is tried everywhere
            outcome = canaries.observe(client, urls, ledger, order, len(manifest.input.labels or ()), say)
        outcome = ledger.settle(order, outcome)
        if outcome.state == "refused":
            for url in urls:
                tell(client, url)  # back to the champion now, not at the next poll
    if order.canary and outcome.state == "proven":
        say(f"order {order.sequence} {outcome.reason}")
        return promote(
            registry,
            ledger,
            model,
            digest,
            endpoints=endpoints,
            who=who,
            what=what,
            reason=reason,
            evidence={**evidence, "canary": order.sequence},
            deadline_s=deadline_s,
            fence=fence,
            slower=slower,
            key=key,
            unsigned=unsigned,
            say=say,
        )
    return Result(outcome.state, order, outcome.reason)


def _is_to_be_tried(history: History, manifest: Manifest, digest: str) -> bool:
    """Not where nothing serves that it could be compared with, nor when it was tried last and is proven."""
    champion = live(history)
    if champion is None or champion.model_digest == manifest.model_digest:
        return False
    newest, outcome = history[-1]
    return not (newest.kind == "canary" and newest.digest == digest and outcome and outcome.state == "proven")


def _alone(history: History) -> None:
    """Raises _Wait while another order is on its way."""
    newest = next((order for order, outcome in reversed(history) if outcome is None), None)
    champion = live(history)
    if newest and (champion is None or newest.sequence > champion.sequence):
        raise _Wait(f"waiting for the outcome of order {newest.sequence} of {newest.who}")


def _demand_rules(history: History, registry: Registry, manifest: Manifest, fence: str | None) -> None:
    """Raises _Stop for a rule that binds nights, _Wait while another order is on its way."""
    _alone(history)
    champion = live(history)
    if champion and champion.model_digest == manifest.model_digest:
        raise _Stop("unchanged", f"{short(champion.digest)} serves already, by order {champion.sequence}")
    bar = barred(history, manifest.model_digest)
    if bar:
        raise _Stop("barred", bar)
    if not _is_opponent(registry, champion, fence):
        met = short(fence) if fence else "no champion"
        serves = f"{short(champion.digest)} serves since order {champion.sequence}" if champion else "nothing serves"
        raise _Stop("fenced", f"the gate met {met}, but {serves}: the next night judges again")


def _is_opponent(registry: Registry, champion: Order | None, fence: str | None) -> bool:
    if champion is None or fence is None:
        return champion is None and fence is None
    if champion.digest == fence:
        return True
    try:
        return registry.manifest(champion.model, fence).model_digest == champion.model_digest
    except ReleaseUnknown:
        return False


def _own_unsettled(ledger: Ledger, model: str, digest: str) -> Order | None:
    """An order for this very release that a night's earlier, dead attempt put and did not settle: it is continued."""
    wanted = ledger.canary(model) or ledger.wanted(model)
    champion = ledger.live(model)
    if wanted and wanted.digest == digest and wanted.what == "deploy" and wanted != champion:
        return wanted
    return None


def _settle_left_behind(
    client: httpx.Client,
    urls: Sequence[str],
    registry: Registry,
    ledger: Ledger,
    model: str,
    digest: str,
    say: Callable[[str], None],
) -> None:
    """Give every order whose deadline passed without an outcome the one that it deserves now.

    One for ``digest`` by a night is left: the caller continues it.
    """
    newer: Order | None = None
    for order, outcome in reversed(ledger.history(model)):
        if outcome is None and newer:
            ledger.settle(order, superseded(newer))
        elif outcome is None and not (order.digest == digest and order.what == "deploy") and _expired(ledger, order):
            say(f"settling order {order.sequence} of {order.who}, which passed its deadline")
            if order.canary:  # who watched it is gone, and nobody else saw all of it
                reason = f"inconclusive as a canary: {order.who} did not judge it in time"
                outcome = Outcome(state="refused", reason=reason, fault="endpoint", at=now())
            else:
                outcome = _prove_late(client, urls, registry, ledger, order, say)
            outcome = ledger.settle(order, outcome)
        if outcome is None or outcome.state == "proven":
            newer = newer or order


def _expired(ledger: Ledger, order: Order) -> bool:
    """By the ledger's clock, which also set the deadline: this machine's may be an hour ahead of that writer's."""
    return ledger.clock() >= order.deadline


def _prove_late(
    client: httpx.Client,
    urls: Sequence[str],
    registry: Registry,
    ledger: Ledger,
    order: Order,
    say: Callable[[str], None],
) -> Outcome:
    try:
        requests = golden.load(registry.read(order.model, order.digest, GOLDEN))
        return prove(client, urls, ledger, order, requests, _PROBE, say)
    except (ReleaseCorrupt, ReleaseUnknown) as error:
        return Outcome(state="refused", reason=error.message, fault="release", at=now())


def _supersede_older(ledger: Ledger, order: Order) -> None:
    for older, outcome in ledger.history(order.model):
        if outcome is None and older.sequence < order.sequence:
            ledger.settle(older, superseded(order))


def _removed(registry: Registry, order: Order) -> Outcome | None:
    """The refusal of an order whose release was removed while it was put; see ``collect``."""
    try:
        registry.wait_for_removal(order.model, order.digest)
        registry.manifest(order.model, order.digest)
    except (ReleaseConflict, ReleaseUnknown) as error:
        return Outcome(state="refused", reason=error.message, fault="endpoint", at=now())
    return None


def _demand_key(client: httpx.Client, urls: Sequence[str], say: Callable[[str], None]) -> None:
    """Raises ReleaseError when one of these endpoints does not let this process ask what serves.

    An order is followed at once by whoever reads the ledger, so it is too late for that once one is put. An endpoint
    that does not answer may be restarting: it is only named.
    """
    for url in urls:
        try:
            no_key = proof.denied(client.get(f"{url}/status"))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ReleaseError(f"nothing was ordered: {url} is no URL of an endpoint", f"{error}") from error
        except httpx.HTTPError as error:
            say(f"{url} does not answer ({str(error) or type(error).__name__}): it is waited for")
            continue
        if no_key:
            raise ReleaseError(
                f"nothing was ordered, because nothing could be proven: {url}: {no_key}",
                "set NIGHTSHIFT_ENDPOINT_KEY to a key with the scope admin (`nightshift keys create`), or to the one "
                "that the endpoint was started with",
            )


def _silent(client: httpx.Client, urls: Sequence[str], patience: timedelta) -> str | None:
    """The first URL that did not answer in this time; None when all do."""
    until = time.monotonic() + patience.total_seconds()
    waiting = list(urls)
    while True:
        waiting = [url for url in waiting if not reachable(client, url)]
        if not waiting:
            return None
        if time.monotonic() >= until:
            return waiting[0]
        time.sleep(0.5)
