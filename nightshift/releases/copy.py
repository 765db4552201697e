"""A release by its digest, or all of them and the ledger, into another registry: create-only, verified at both ends.

What was copied before is not copied again, so a copy that was interrupted is ended by doing it again. A backup of a
registry in use is one moment of it: the ledger is listed first, so each of its releases is found afterwards.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from nightshift.releases import verify
from nightshift.releases.errors import ReleaseConflict, ReleaseCorrupt, ReleaseUnknown
from nightshift.releases.registry import Registry
from nightshift.releases.store import Store

_TURN = {"marks": 0, "outcomes": 1, "orders": 2}  # an order never appears before its outcome: nobody serves it anew


def release(source: Registry, target: Registry, model: str, digest: str) -> bool:
    """Copy one release (full digest) with its signatures, and read it back; False when the target has all already.

    Raises ReleaseUnknown or ReleaseCorrupt of either registry, ReleaseConflict, StoreUnavailable.
    """
    if _is_there(target, model, digest):  # what was signed later follows
        later = source.signatures(model, digest).items()
        return sum(target.add_signature(model, digest, key_id, data) for key_id, data in later) > 0
    with tempfile.TemporaryDirectory(prefix="nightshift-copy-") as scratch:
        target.publish(source.fetch(model, digest, Path(scratch)))
    for checked in verify.releases(target.store, model, digest):
        if checked.wrong:
            raise ReleaseCorrupt(f"{target.store.url}/{checked.key} {checked.wrong}", "remove it there, and copy again")
    return True


def everything(source: Store, target: Store, say: Callable[[str], None] = lambda _: None) -> tuple[int, int]:
    """Copy every release and every entry of the ledger; how many of each were copied now.

    Raises ReleaseConflict when the target's ledger says something else, and what ``release`` raises.
    """
    entries = sorted(source.list("ledger/"), key=_turn)
    from_, to = Registry(source), Registry(target)
    releases = 0
    for info in from_.list():
        try:
            copied = release(from_, to, info.model, info.digest)
        except ReleaseUnknown:
            continue  # gc removed it meanwhile
        releases += copied
        say(f"{info.model} {info.digest[:12]} {'copied' if copied else 'is there'}")
    return releases, sum(_entry(source, target, key) for key in entries)


def _is_there(registry: Registry, model: str, digest: str) -> bool:
    """Whether all its files are there with their sizes; ``nightshift verify`` reads them."""
    try:
        manifest = registry.manifest(model, digest)
    except ReleaseUnknown:
        return False
    folder = f"releases/{model}/{digest}"
    return all(registry.store.size(f"{folder}/{file.path}") == file.size for file in manifest.files)


def _turn(key: str) -> tuple[str, str, int]:
    """Per model in order of their numbers; ``ledger/<model>/<kind>/<number>.json``."""
    _, model, kind, number = key.split("/")
    return model, "" if kind == "marks" else number, _TURN.get(kind, 0)


def _entry(source: Store, target: Store, key: str) -> bool:
    data = source.get(key)
    if target.put_new(key, data):
        return True
    if target.get(key) != data:
        raise ReleaseConflict(
            f"{target.url}/{key} is another entry than that of {source.url}: they are two ledgers",
            "copy into an empty registry, or single releases by their digest",
        )
    return False
