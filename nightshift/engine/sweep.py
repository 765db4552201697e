"""DVC's objects that nothing reaches go: out of the remote, and out of this machine's cache.

An object goes when it was put more than two weeks ago and neither a commit, a run nor a release names it (``reach``),
nor a run-cache entry. An entry goes when it is as old, and an output of it is lost or reached by nothing else; what it
named stays for an hour after that, longer than anybody takes who has just read it.

A run may compute, at this very moment, the bytes of an object that is to go: it finds the object there, does not put it
again, and then puts the fragment that names it. Removal and use meet on a marker, as in ``releases.collect``:

    sweeps/<id>.json      what is to go, and whether that has ended; stays for a day

Who removes puts the marker, *then* reads the journals; who puts a fragment looks for markers *after* it, waits for
their end and puts again what is gone (``survive``): at least one of the two sees the other. A sweep that was killed
leaves a marker that nobody waits for longer than a quarter of an hour, and the next one ends its work.
"""

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from nightshift.engine import lock, transfer
from nightshift.engine.objects import Objects, entry_hashes
from nightshift.engine.reach import names
from nightshift.engine.report import say
from nightshift.releases.clock import Clock
from nightshift.releases.store import Store

GRACE = timedelta(days=14)  # what was put and is not named yet: a push whose commit is still to come
GAP = timedelta(hours=1)
TIME_S = 300.0  # nothing is removed on a marker that is older; what is left then goes with the next sweep
PATIENCE = timedelta(seconds=3 * TIME_S)
THREADS = 8
ENTRIES = "sweeps/entries"  # put when run-cache entries were removed
FILES, RECORDS = "files/md5/", "runs/"


@dataclass
class Found:
    """What a store of objects holds: why each name stays, and what is to go; keys, listings before their members."""

    stays: dict[str, int] = field(default_factory=dict)
    objects: list[str] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)


def survey(store: Store, reached: Mapping[str, str], now: datetime, written: Mapping[str, datetime]) -> Found:
    """What of these keys (and when each was put) is to go."""
    found = Found()
    stored = {_name(key) for key in written if key.startswith(FILES)}
    by_entry: set[str] = set()
    keys = [key for key in written if key.startswith(RECORDS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for key, text in zip(keys, pool.map(store.get, keys), strict=True):
            outs = set(entry_hashes(lock.load(text).get("outs", [])).values())
            if now - written[key] > GRACE and not outs - {""} <= reached.keys() & stored:
                found.entries.append(key)
            by_entry |= names(text)
        folders = [name for name in by_entry - reached.keys() if name.endswith(".dir") and name in stored]
        for text in pool.map(store.get, map(_key, folders)):
            by_entry |= names(text)
    for key in sorted(written, key=lambda key: (not key.endswith(".dir"), key)):
        if not key.startswith(FILES):
            continue
        name = _name(key)
        why = reached.get(name) or ("a run-cache entry" if name in by_entry else None)
        if why is None and now - written[key] <= GRACE:
            why = "its age"
        if why is None:
            found.objects.append(key)
        else:
            found.stays[why] = found.stays.get(why, 0) + 1
    return found


def sweep(
    work: Store,
    store: Store,
    reach: Callable[[datetime], Mapping[str, str]],
    *,
    dry_run: bool,
    say: Callable[[str], object] = say,
    now: datetime | None = None,
) -> dict[str, int]:
    """Remove from ``store``, DVC's remote, what is to go; how many ``objects`` and run-cache ``entries`` that were.

    Args:
        work: where the journals and the markers are.
        reach: what is reached at a time, read anew each time.
        now: instead of the store's clock.
    """
    now = now or Clock(work)()
    written = {**store.written(FILES), **store.written(RECORDS)}  # before the journals: what comes later is young
    found = survey(store, reach(now), now, written)
    lately = [at for at in work.written(ENTRIES).values() if now - at < GAP]
    if found.objects and lately:
        say(f"{len(found.objects)} objects wait: run-cache entries were removed less than an hour ago")
        found.stays["a removed run-cache entry"] = len(found.objects)
        found.objects = []
    _tell(store, found, dry_run, say)
    if dry_run:
        return {"objects": len(found.objects), "entries": len(found.entries)}
    _delete(store, found.entries)
    if found.entries:
        work.put(ENTRIES, b"")
    return {"objects": _remove(work, store, lambda: reach(now), found.objects), "entries": len(found.entries)}


def sweep_cache(
    cache: Store, reached: Mapping[str, str], now: datetime, *, dry_run: bool, say: Callable[[str], object] = say
) -> int:
    """The same for this machine's cache; nothing is lost but what a stage makes again."""
    written = {**cache.written(FILES), **cache.written(RECORDS)}
    found = survey(cache, reached, now, written)
    _tell(cache, found, dry_run, say)
    if not dry_run:
        _delete(cache, found.entries + found.objects)
    return len(found.objects)


def survive(work: Store, objects: Objects, outputs: Iterable[str]) -> None:
    """After a fragment was put: none of these outputs, which are in the cache here, was removed meanwhile."""
    markers = {key: since for key, since in work.written("sweeps/").items() if key.endswith(".json")}
    named = {name: {name, *objects.members(name).values()} for name in outputs if name} if markers else {}
    clock = Clock(work)
    for key, since in markers.items():
        marker = _marker(work, key)
        if not (mine := [name for name, all_of_it in named.items() if all_of_it & set(marker["objects"])]):
            continue
        say("housekeeping removes what this run made again: it is put once more when that has ended")
        while not marker["ended"] and clock() - since < PATIENCE:
            time.sleep(0.5)
            marker = _marker(work, key)
        transfer.push(objects, mine)


def _marker(work: Store, key: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(work.get(key))
    except KeyError:  # a day old, and gone since it was listed
        return {"objects": [], "ended": True}
    return found


def _remove(work: Store, store: Store, reach: Callable[[], Mapping[str, str]], keys: Collection[str]) -> int:
    """Remove these objects, but for what is reached by now; how many."""
    if not keys:
        return 0
    marker, content = f"sweeps/{secrets.token_hex(8)}.json", {"objects": [_name(key) for key in keys], "ended": False}
    until = time.monotonic() + TIME_S
    work.put(marker, json.dumps(content).encode())
    reached = reach()
    going = [key for key in keys if _name(key) not in reached]
    done = _delete(store, going, until)
    work.put(marker, json.dumps(content | {"ended": True}).encode())
    if done < len(going):
        say(f"{len(going) - done} objects are left for the next time")
    return done


def _delete(store: Store, keys: Collection[str], until: float = float("inf")) -> int:
    """Remove keys, listings first and several at a time, while ``until`` (monotonic) is not over; how many."""

    def delete(key: str) -> bool:
        if time.monotonic() > until:
            return False
        store.delete(key)
        return True

    done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for some in ([k for k in keys if k.endswith(".dir")], [k for k in keys if not k.endswith(".dir")]):
            done += sum(pool.map(delete, some))
    return done


def _tell(store: Store, found: Found, dry_run: bool, say: Callable[[str], object]) -> None:
    would = "would remove" if dry_run else "removes"
    if found.entries:
        say(f"{would} {len(found.entries)} run-cache entries of {store.url} that are of no use any more")
    if found.objects:
        size = sum(store.size(key) or 0 for key in found.objects)
        say(f"{would} {len(found.objects)} objects of {store.url} that nothing reaches, {size / 1e6:,.1f} MB")
    if found.stays:
        stay = ", ".join(f"{count} for {why}" for why, count in sorted(found.stays.items()))
        say(f"of {store.url} stay: {stay}")


def _name(key: str) -> str:
    return key.removeprefix(FILES).replace("/", "")


def _key(name: str) -> str:
    return f"{FILES}{name[:2]}/{name[2:]}"
