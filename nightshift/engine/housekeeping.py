"""Housekeeping: what runs left and nobody asks for any more goes, by age; and DVC's objects that nothing reaches.

=======================  ========  =====================================================================
what                     kept for  whose it is
=======================  ========  =====================================================================
``runs/<dag>/<run>``     90 days   a run's journal: what ``why`` and ``pull-run`` read
``nights/<night>``       90 days   what the page "Nights" shows
``checkpoints/<key>``    14 days   of a training that was given up: one that goes on keeps a newer one
``leases/<key>.json``    1 day     given back, or of a holder that died: a living one renews it every few seconds
``sweeps/<name>``        1 day     that DVC's objects were looked through; of a sweep that was killed
``clocks/<name>``        1 day     of a look at the store's clock that was killed
=======================  ========  =====================================================================

The age is that of the newest object, by the store's clock. The journal of a run whose release is in the registry stays
with it: ``trace`` begins there. Held days and durations are not touched; which of DVC's objects go stands in ``sweep``.
"""

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from nightshift.engine import lock
from nightshift.engine.journal import safe
from nightshift.engine.objects import Objects, remote_url_of
from nightshift.engine.reach import Reach
from nightshift.engine.report import Receipt, say
from nightshift.engine.repository import Repository
from nightshift.engine.settings import branch, home, setting
from nightshift.engine.sweep import sweep, sweep_cache
from nightshift.releases.clock import Clock
from nightshift.releases.ledger import Ledger
from nightshift.releases.store import Store, open_store

# Kind to how long it is kept, and how many parts of a key name one of it.
KEPT = {
    "runs": (timedelta(days=90), 3),
    "nights": (timedelta(days=90), 2),
    "checkpoints": (timedelta(days=14), 2),
    "leases": (timedelta(days=1), 2),
    "sweeps": (timedelta(days=1), 2),
    "clocks": (timedelta(days=1), 2),
}
# Without these nobody finds the rest, so they go first: a removal that stops half-way leaves nothing that looks whole.
FIRST = ("/base.json", "/last.json", "/night.json")
SWEPT = "sweeps/done"  # DVC's objects are looked through again when this is old enough to go
HISTORY_DAYS = 90  # unless params.yaml says otherwise


def old(written: Mapping[str, datetime], kind: str, now: datetime) -> dict[str, list[str]]:
    """What is too old of a kind: its name to its keys, in the order in which they are to be removed.

    Args:
        written: each key of the kind, and when it was last put.
    """
    age, parts = KEPT[kind]
    found: dict[str, list[str]] = {}
    for key in sorted(written, key=lambda key: (not key.endswith(FIRST), key)):
        found.setdefault("/".join(key.split("/")[:parts]), []).append(key)
    return {name: keys for name, keys in sorted(found.items()) if now - max(map(written.__getitem__, keys)) > age}


def housekeeping(
    *, dry_run: bool = False, say: Callable[[str], object] = say, daily: bool = False, now: datetime | None = None
) -> Receipt:
    """Remove what is old from ``NIGHTSHIFT_WORK``; with ``dry_run`` only say it. ``say`` hears a line for each.

    Args:
        daily: look through DVC's objects only if nobody did in the last day: that costs a request per folder.
        now: instead of the store's clock.

    Returns:
        ``removed``: how many of each kind; ``swept``: ``objects`` and ``entries`` of the remote, ``cached`` objects.

    Raises:
        NightshiftError: the repository is not the one of the nights.
    """
    store: Store = open_store(setting("NIGHTSHIFT_WORK"))
    now = now or Clock(store)()
    removed = {}
    for kind in KEPT:
        found = old(store.written(f"{kind}/"), kind, now)
        if kind == "runs" and found:
            referenced = _referenced()
            found = {name: keys for name, keys in found.items() if name not in referenced}
        for name, keys in found.items():
            say(f"{'would remove' if dry_run else 'removes'} {store.url}/{name} ({len(keys)} objects)")
            for key in () if dry_run else keys:
                store.delete(key)
        removed[kind] = len(found)
    swept = {} if daily and store.exists(SWEPT) else _sweep(store, now, dry_run, say)
    if swept and not dry_run:
        store.put(SWEPT, b"")
    counts = ", ".join(f"{number} {kind}" for kind, number in removed.items() if number)
    verb = "to remove by age" if dry_run else "removed by age"
    message = f"{verb}: {counts or 'nothing'}"
    if swept:
        message += f"; of DVC's objects: {swept['objects']} of the remote, {swept['cached']} of the cache"
    return Receipt("done", message, {"removed": removed, "swept": swept})


def _referenced() -> set[str]:
    """The journals of the runs that made a release which is still in the registry."""
    registry = open_store(setting("NIGHTSHIFT_REGISTRY"))
    there = {tuple(key.split("/")[1:3]) for key in registry.list("releases/")}
    ledger = Ledger(registry)
    return {
        f"runs/{safe(order.evidence['dag'])}/{safe(order.evidence['run'])}"
        for model in ledger.models()
        for order in ledger.orders(model)
        if (model, order.digest) in there and order.evidence.get("run")
    }


def _sweep(store: Store, now: datetime, dry_run: bool, say: Callable[[str], object]) -> dict[str, int]:
    where = os.environ.get("NIGHTSHIFT_REPO")
    if not where:
        say("DVC's objects are left: only the repository (NIGHTSHIFT_REPO) tells which of them are needed")
        return {}
    with Repository.open(where) as repository:
        tip = repository.tip(branch())
        url = remote_url_of((repository.show(tip, ".dvc/config") or b"").decode())
        params: dict[str, Any] = lock.load(repository.show(tip, "params.yaml"))
    if not url.startswith(f"{store.url}/"):
        say(f"DVC's objects in {url or 'no remote'} are left: others may use them, as they are not in {store.url}")
        return {}
    history = timedelta(days=(params.get("housekeeping") or {}).get("history_days", HISTORY_DAYS))
    objects = Objects(url, home() / "cache")
    reach = Reach(store, open_store(setting("NIGHTSHIFT_REGISTRY")), objects, history)

    def reached(now: datetime) -> dict[str, str]:
        with Repository.open(where) as repository:  # a clone of a URL is as old as its making
            return reach.names(repository, home().parent, now)

    swept = sweep(store, objects.store, reached, dry_run=dry_run, say=say, now=now)
    cache = open_store(str(objects.cache))
    return swept | {"cached": sweep_cache(cache, reached(now), now, dry_run=dry_run, say=say)}
