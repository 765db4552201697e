"""What nobody needs any more, and its removal: ``nightshift gc``.

    removals/<model>/<digest>.json      create-only while a release is being removed; gone with its last byte

Removal and use meet on that marker. Who removes puts the marker, *then* reads the ledger; who orders puts the order,
*then* looks for the marker: at least one of the two sees the other. The manifest goes first, so that no reader ever
finds half a release; a publisher of the same release waits for the marker to go and publishes again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseCorrupt, ReleaseUnknown
from nightshift.releases.ledger import History, Ledger, live, rollback_target
from nightshift.releases.marks import Mark, Marks, retired, standing
from nightshift.releases.registry import ABANDONED, Registry, Removal

_UNFINISHED = timedelta(days=1)  # no publisher takes longer over one release


@dataclass(frozen=True)
class Found:
    """One release as gc sees it. ``needed`` says why it stays; None: it may go, for the reason ``why``."""

    model: str
    digest: str
    bytes: int
    needed: str | None
    why: str = ""


def survey(
    registry: Registry,
    ledger: Ledger,
    *,
    days: int,
    orders: int,
    opponents: Mapping[str, str | None],
    only: tuple[str, str] | None = None,
) -> list[Found]:
    """Every release of the registry (or ``only`` this one), whole or unfinished, and whether anything needs it.

    ``opponents`` are the digests of the champion files, by model. See ``needed`` for ``days`` and ``orders``.
    """
    written: dict[tuple[str, str], dict[str, datetime]] = {}
    for key, at in registry.store.written(f"releases/{'/'.join(only)}/" if only else "releases/").items():
        _, model, digest, path = key.split("/", 3)
        written.setdefault((model, digest), {})[path] = at
    found, at = [], ledger.clock()
    for key in registry.store.list("removals/") if not only else []:
        model, digest = key.removeprefix("removals/").removesuffix(".json").split("/")
        size = _size(registry, model, digest, written.pop((model, digest), {}))
        found.append(Found(model, digest, size, None, "its removal never ended"))
    marks = Marks(registry.store)
    for model in sorted({model for model, _ in written}):
        history, marked = ledger.history(model), marks.of(model)
        settled = [(order, outcome) for order, outcome in history if outcome]
        back = rollback_target(reversed(settled), _able(registry, model, marked))
        for digest, files in ((d, f) for (m, d), f in sorted(written.items()) if m == model):
            age = at - max(files.values())
            whole = manifests.NAME in files
            # A publisher may be at work on what is not whole; when it is removed already, nobody is.
            young = age < (timedelta(days=days) if whole else _UNFINISHED) and (whole or not only)
            reason = needed(
                history,
                marked,
                digest,
                young=young,
                orders=orders,
                back=back.digest if back else None,
                opponent=opponents.get(model),
            )
            why = "retired" if standing(marked, "retire", digest) else f"nothing needs it since {age.days} days"
            size = _size(registry, model, digest, files)
            found.append(Found(model, digest, size, reason, why if whole else "its publishing never ended"))
    return found


def needed(
    history: History,
    marks: Sequence[Mark],
    digest: str,
    *,
    young: bool,
    orders: int,
    back: str | None,
    opponent: str | None,
) -> str | None:
    """Why a release must stay, in words; None when it may go.

    Live, on its way, what a rollback goes ``back`` to, kept, or named by a champion file: always. In the newest
    ``orders`` orders (or met by them as opponent), or ``young``: unless a person retired it.
    """
    champion = live(history)
    if champion and champion.digest == digest:
        return "champion"
    if any(outcome is None and order.digest == digest for order, outcome in history):
        return "ordered, without outcome yet"
    if digest == back:
        return "a rollback goes back to it"
    if standing(marks, "keep", digest):
        return "kept"
    if digest == opponent:
        return "named by a champion file"
    if standing(marks, "retire", digest):
        return None
    for order, _ in history[-orders:] if orders else []:
        if digest in (order.digest, order.previous, order.evidence.get("opponent")):
            return f"order {order.sequence}"
    return "young" if young else None


def rollback_digest(registry: Registry, ledger: Ledger, model: str) -> str | None:
    """The release that a rollback goes back to when nobody names it; None when there is none.

    Raises ReleaseCorrupt for a damaged entry that is newer than what it would find: that might be it.
    """
    target = rollback_target(ledger.newest_first(model), _able(registry, model, Marks(registry.store).of(model)))
    return target.digest if target else None


def _able(registry: Registry, model: str, marks: Sequence[Mark]) -> set[str]:
    """The releases of a model that can serve again: neither removed nor retired."""
    ended = retired(marks)
    return {info.digest for info in registry.list(model) if info.digest not in ended}


def remove(
    registry: Registry,
    ledger: Ledger,
    found: Found,
    *,
    who: str,
    days: int,
    orders: int,
    opponents: Mapping[str, str | None],
) -> bool:
    """Remove one release, unless something needs it by now; whether it was removed.

    A removal that somebody began is left to them, and taken over when they are gone for a while.
    """
    until = time.monotonic() + (ABANDONED / 3).total_seconds()
    removal = Removal(who=who, at=ledger.clock())
    if not registry.begin_removal(found.model, found.digest, removal):
        return False
    # Read anew, past every cache of ours: an order that was put before the marker is seen here.
    fresh = Ledger(ledger.store)
    only = (found.model, found.digest)
    again = survey(registry, fresh, days=days, orders=orders, opponents=opponents, only=only)
    stays = any(each.needed for each in again)
    if not stays:
        registry.remove(found.model, found.digest, until=until)
    registry.end_removal(found.model, found.digest)
    return not stays


def _size(registry: Registry, model: str, digest: str, files: Mapping[str, Any]) -> int:
    try:
        manifest = registry.manifest(model, digest)
        return manifest.size + len(manifests.dump(manifest))
    except (ReleaseUnknown, ReleaseCorrupt):
        return sum(registry.store.size(f"releases/{model}/{digest}/{path}") or 0 for path in files)
