"""Every digest of a registry, computed again from its bytes; what is wrong, one finding a thing.

releases/…   each file's size and sha256, each manifest's digest, the model digest, each signature, what lies there
             unlisted
ledger/…     each entry's checksum, its number and model; no order missing, no outcome or mark without its place
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nightshift.releases import entries, signing
from nightshift.releases import manifest as manifests
from nightshift.releases.entries import Entry
from nightshift.releases.errors import FormatTooNew, ReleaseCorrupt
from nightshift.releases.ledger import Order, Outcome
from nightshift.releases.marks import Mark
from nightshift.releases.store import Store

_KINDS: dict[str, type[Entry]] = {"orders": Order, "outcomes": Outcome, "marks": Mark}
_ENTRY = re.compile(r"ledger/(?P<model>[^/]+)/(?P<kind>orders|outcomes|marks)/(?P<sequence>\d{8})\.json")


@dataclass(frozen=True)
class Checked:
    """One object that was looked at; ``wrong`` says what is the matter with it, None when nothing is."""

    key: str
    bytes: int
    wrong: str | None = None


def releases(store: Store, model: str | None = None, digest: str | None = None) -> Iterator[Checked]:
    """Each file of each published release (of one model, of one release), checked as it is yielded."""
    prefix = "releases/" + (f"{model}/" if model else "") + (f"{digest}/" if digest else "")
    there: dict[tuple[str, str], set[str]] = {}
    for key in store.list(prefix):
        _, model_, digest_, path = key.split("/", 3)
        there.setdefault((model_, digest_), set()).add(path)
    for (model_, digest_), paths in sorted(there.items()):
        if manifests.NAME in paths:  # without it there is no release yet: a publisher is at work, or was killed
            yield from _release(store, model_, digest_, paths)


def _release(store: Store, model: str, digest: str, paths: set[str]) -> Iterator[Checked]:
    folder = f"releases/{model}/{digest}"
    key = f"{folder}/{manifests.NAME}"
    try:
        data = store.get(key)
    except KeyError:
        return  # removed since it was listed
    try:
        if manifests.digest(data) != digest:
            raise ReleaseCorrupt(f"has the sha256 {manifests.digest(data)}, its name says {digest}")
        manifest = manifests.load(data)
        if manifest.model != model:
            raise ReleaseCorrupt(f"is a release of {manifest.model}, not of {model}")
        program = manifest.file(manifests.PROGRAM)
        if program is None:
            raise ReleaseCorrupt(f"lists no {manifests.PROGRAM}")
        if manifests.model_digest(program.sha256, manifest.input, manifest.signature) != manifest.model_digest:
            raise ReleaseCorrupt("has another model digest than its program, input and signature")
    except (ReleaseCorrupt, FormatTooNew) as error:
        yield Checked(key, len(data), error.message)
        return
    yield Checked(key, len(data))
    with tempfile.TemporaryDirectory(prefix="nightshift-verify-") as scratch:
        for file in manifest.files:
            yield _file(store, f"{folder}/{file.path}", file, Path(scratch) / "file")
    for path in sorted(paths - {file.path for file in manifest.files} - {manifests.NAME}):
        key_id = manifests.signed_by(path)
        signature = store.get(f"{folder}/{path}") if key_id else b""
        wrong = signing.fault(signature, model, digest, key_id, data) if key_id else "is not in the manifest"
        yield Checked(f"{folder}/{path}", len(signature), wrong)


def _file(store: Store, key: str, file: manifests.File, scratch: Path) -> Checked:
    try:
        store.get_file(key, scratch)
    except KeyError:
        return Checked(key, 0, "is missing")
    size = scratch.stat().st_size
    if size != file.size:
        return Checked(key, size, f"has {size} bytes, its manifest says {file.size}")
    found = manifests.sha256_of(scratch)
    return Checked(key, size, None if found == file.sha256 else f"has the sha256 {found}, not {file.sha256}")


def ledger(store: Store, model: str | None = None) -> Iterator[Checked]:
    """Each entry of the ledger (of one model), checked as it is yielded."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for key in store.list(f"ledger/{model}/" if model else "ledger/"):
        found = _ENTRY.fullmatch(key)
        if not found:
            yield Checked(key, 0, "is no order, outcome or mark")
            continue
        sequence = int(found["sequence"])
        numbers.setdefault((found["model"], found["kind"]), set()).add(sequence)
        data = store.get(key)
        yield Checked(key, len(data), entry_fault(data, found["model"], found["kind"], sequence))
    for (name, kind), known in sorted(numbers.items()):
        whole = numbers.get((name, "orders"), set()) if kind == "outcomes" else set(range(1, max(known) + 1))
        missing = (known - whole) if kind == "outcomes" else (whole - known)
        for sequence in sorted(missing):
            yield Checked(
                f"ledger/{name}/{'orders' if kind == 'outcomes' else kind}/{sequence:08d}.json", 0, "is missing"
            )


def entry_fault(data: bytes, model: str, kind: str, sequence: int) -> str | None:
    """What is wrong with the bytes of an order, outcome or mark under its name; None when nothing is."""
    try:
        entry = entries.load(data, _KINDS[kind], "it")
    except (ReleaseCorrupt, FormatTooNew) as error:
        return error.message
    if not entries.is_whole(data, entry):
        return "is not, byte for byte, what was written"
    said = entry.model_dump()
    if said.get("sequence", sequence) != sequence or said.get("model", model) != model:
        return f"says that it is number {said.get('sequence')} of {said.get('model')}"
    return None


def check(
    store: Store, model: str | None, digest: str | None, seen: Callable[[Checked], None] = lambda _: None
) -> list[Checked]:
    """All findings of the registry and its ledger, or of one model, or of one release; ``seen`` gets each object."""
    wrong = []
    for found in releases(store, model, digest):
        seen(found)
        wrong += [found] if found.wrong else []
    for found in ledger(store, model) if digest is None else ():
        seen(found)
        wrong += [found] if found.wrong else []
    return wrong
