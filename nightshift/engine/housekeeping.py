"""Housekeeping of the work bucket: by age goes what runs left there and nobody asks for any more.

=======================  ========  =====================================================================
what                     kept for  whose it is
=======================  ========  =====================================================================
``runs/<dag>/<run>``     90 days   a run's journal: what ``why`` and ``pull-run`` read
``nights/<night>``       90 days   what the page "Nights" shows
``checkpoints/<key>``    14 days   of a training that was given up: one that goes on keeps a newer one
``leases/<key>.json``    1 day     given back, or of a holder that died: a living one renews it every few seconds
=======================  ========  =====================================================================

The age is that of the newest object. Held days, durations and DVC's objects are not touched.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from nightshift.engine.report import Receipt, say
from nightshift.engine.settings import setting
from nightshift.releases.store import Store, open_store

# Kind to how long it is kept, and how many parts of a key name one of it.
KEPT = {
    "runs": (timedelta(days=90), 3),
    "nights": (timedelta(days=90), 2),
    "checkpoints": (timedelta(days=14), 2),
    "leases": (timedelta(days=1), 2),
}
# Without these nobody finds the rest, so they go first: a removal that stops half-way leaves nothing that looks whole.
FIRST = ("/base.json", "/last.json", "/night.json")


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


def housekeeping(*, dry_run: bool = False, say: Callable[[str], object] = say, now: datetime | None = None) -> Receipt:
    """Remove what is old from ``NIGHTSHIFT_WORK``; with ``dry_run`` only say it. ``say`` hears a line for each.

    Returns:
        ``removed``: how many of each kind.
    """
    store: Store = open_store(setting("NIGHTSHIFT_WORK"))
    removed = {}
    for kind in KEPT:
        found = old(store.written(f"{kind}/"), kind, now or datetime.now(UTC))
        for name, keys in found.items():
            say(f"{'would remove' if dry_run else 'removes'} {store.url}/{name} ({len(keys)} objects)")
            for key in () if dry_run else keys:
                store.delete(key)
        removed[kind] = len(found)
    counts = ", ".join(f"{number} {kind}" for kind, number in removed.items() if number)
    verb = "to remove by age" if dry_run else "removed by age"
    return Receipt("done", f"{verb}: {counts or 'nothing'}", {"removed": removed})
