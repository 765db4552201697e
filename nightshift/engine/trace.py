"""From a release back to its data, link by link, every digest on the way computed again.

    release ─ ledger ─ decision ─ evaluation ─ champion met ─ training ─ data ─ code

Registry and ledger hold the first half whole. Training, data and code lie in DVC's store and in Git: they are found by
the run that the order names, and a link that cannot be looked at from here is said to be unchecked, never whole.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightshift.engine.journal import Journal
from nightshift.engine.key import file_md5
from nightshift.engine.objects import Objects
from nightshift.engine.repository import Repository
from nightshift.errors import NightshiftError
from nightshift.releases import signing, verify
from nightshift.releases.errors import ReleaseCorrupt, ReleaseError, ReleaseUnknown
from nightshift.releases.ledger import History, Ledger
from nightshift.releases.manifest import Manifest, short
from nightshift.releases.registry import Registry


@dataclass(frozen=True)
class Link:
    """One step back. ``state`` is "whole", "broken" or "unchecked"; ``said`` is a sentence, ``facts`` its details."""

    name: str
    state: str
    said: str
    facts: dict[str, Any] = field(default_factory=dict)


class Unchecked(Exception):
    """This link cannot be looked at from here; the message says why."""


def links(registry: Registry, model: str, digest: str, say: Callable[[str], None] = lambda _: None) -> Iterator[Link]:
    """The chain of a release (full digest), a link at a time; the release's files are read once.

    A link that is broken does not end the chain, but for the release itself: without it there is nothing to follow.
    """
    with tempfile.TemporaryDirectory(prefix="nightshift-trace-") as scratch:
        say("the release")
        try:
            folder = registry.fetch(model, digest, Path(scratch))
            manifest = registry.manifest(model, digest)
            signers = _signers(registry, model, digest)
        except ReleaseError as error:
            wrong = next((each for each in verify.releases(registry.store, model, digest) if each.wrong), None)
            yield Link("release", "broken", f"{wrong.key} {wrong.wrong}" if wrong else error.message)
            return
        said = f"{model} {short(digest)}: {len(manifest.files)} files and the manifest, {manifest.size:,} bytes"
        said += f", signed with {' and '.join(signers)}" if signers else ""
        facts = {"digest": digest, "model_digest": manifest.model_digest, "signed_by": signers}
        yield Link("release", "whole", said, facts)
        try:
            history = Ledger(registry.store).history(model)
        except ReleaseError as error:
            history, fault = [], error.message
        else:
            fault = next(
                (f"{each.key} {each.wrong}" for each in verify.ledger(registry.store, model) if each.wrong), ""
            )
        yield _ledger(history, digest, fault)
        run = _run(history, digest)
        for name, look in {
            "decision": lambda: _decision(folder, manifest),
            "evaluation": lambda: _evaluation(folder),
            "champion": lambda: _champion(registry, manifest),
            "training": lambda: _training(folder, manifest, _objects(run)),
            "data": lambda: _data(manifest, _objects(run), say),
            "code": lambda: _code(manifest, run),
        }.items():
            say(name)
            try:
                said, facts = look()
                yield Link(name, "whole", said, facts)
            except Unchecked as why:
                yield Link(name, "unchecked", str(why))
            except (NightshiftError, ReleaseError) as error:
                yield Link(name, "broken", error.message)


def _signers(registry: Registry, model: str, digest: str) -> list[str]:
    """The ids of the keys that signed it. Raises ReleaseCorrupt for a signature that is not what was written."""
    found, manifest = registry.signatures(model, digest), registry.manifest_bytes(model, digest)
    for key_id, data in found.items():
        fault = signing.fault(data, model, digest, key_id, manifest)
        if fault:
            raise ReleaseCorrupt(f"the signature of {key_id} {fault}", "sign it again, after removing that")
    return list(found)


def _ledger(history: History, digest: str, fault: str) -> Link:
    if fault:
        return Link("ledger", "broken", fault)
    mine = [(order, outcome) for order, outcome in history if order.digest == digest]
    orders = [
        {**order.model_dump(mode="json"), "outcome": outcome.model_dump(mode="json") if outcome else None}
        for order, outcome in mine
    ]
    words = [f"order {order.sequence} of {order.who} {out.state if out else 'has no outcome'}" for order, out in mine]
    return Link("ledger", "whole", ", ".join(words) or "it was never ordered", {"orders": orders})


def _run(history: History, digest: str) -> tuple[Journal, dict[str, Any], str] | None:
    """The journal and base of the run that made it, and the commit that it was recorded as; None when nobody knows."""
    evidence = next((o.evidence for o, _ in history if o.digest == digest and o.evidence.get("run")), None)
    if evidence is None or not os.environ.get("NIGHTSHIFT_WORK"):
        return None
    journal = Journal.open(evidence["dag"], evidence["run"])
    base = journal.get("base.json")
    return None if base is None else (journal, base, evidence["commit"])


def _objects(run: tuple[Journal, dict[str, Any], str] | None) -> Objects:
    if run is None:
        raise Unchecked("no night ordered it, or its run's journal is not here (NIGHTSHIFT_WORK)")
    return Objects(run[1]["remote"], Path("/nonexistent"))  # never a cache: what counts is what is stored


def _decision(folder: Path, manifest: Manifest) -> tuple[str, dict[str, Any]]:
    decision = _json(folder, "decision.json")
    if decision["verdict"] != manifest.verdict:
        raise NightshiftError(f"the decision says {decision['verdict']}, the manifest {manifest.verdict}")
    if decision.get("opponent") != manifest.lineage.get("opponent"):
        raise NightshiftError("decision and lineage name different opponents")
    return f"{decision['verdict']}: {'; '.join(map(str, decision.get('reasons', [])))}", {"decision": decision}


def _evaluation(folder: Path) -> tuple[str, dict[str, Any]]:
    metrics, decision = _json(folder, "metrics.json"), _json(folder, "decision.json")
    for name in ("accuracy", "rows"):
        if name in decision and decision[name] != metrics.get(name):
            raise NightshiftError(f"the decision says {name} {decision[name]}, the evaluation {metrics.get(name)}")
    return f"accuracy {metrics.get('accuracy')} on {metrics.get('rows')} rows", {"metrics": metrics}


def _champion(registry: Registry, manifest: Manifest) -> tuple[str, dict[str, Any]]:
    met = manifest.lineage.get("opponent")
    if not met:
        return "it met none: the absolute bounds decided alone", {"opponent": None}
    try:
        registry.manifest(manifest.model, met)
    except ReleaseUnknown:
        raise Unchecked(f"it met {short(met)}, which was removed from {registry.store.url} since") from None
    for each in verify.releases(registry.store, manifest.model, met):
        if each.wrong:
            raise NightshiftError(f"{each.key} {each.wrong}")
    return f"it met {short(met)}, whole in the registry", {"opponent": met}


def _training(folder: Path, manifest: Manifest, objects: Objects) -> tuple[str, dict[str, Any]]:
    outputs: dict[str, str] = manifest.lineage.get("train_outputs") or {}
    if not outputs:
        raise Unchecked("its lineage names no outputs of a training")
    for path, md5 in outputs.items():
        released = folder / Path(path).name
        if file_md5(released) != md5:
            raise NightshiftError(f"{released.name} of the release is not what the training left ({md5})")
        _download(objects, md5)
    return f"{len(outputs)} files of the training are those of the release", {"train_outputs": outputs}


def _data(manifest: Manifest, objects: Objects, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    dataset: dict[str, Any] = manifest.lineage.get("dataset") or {}
    partitions: dict[str, str] = dataset.get("partitions") or {}
    if not partitions:
        raise Unchecked("its lineage names no partitions: it was packaged by an older Nightshift")
    described = json.loads(_download(objects, dataset["md5"]))
    for name in ("days", "partitions", "splits"):
        if described[name] != dataset[name]:
            raise NightshiftError(f"dataset.json and lineage disagree about {name}")
    for number, (day, md5) in enumerate(partitions.items(), 1):
        say(f"day {day}, {number} of {len(partitions)}")
        try:
            _download(objects, md5)
        except NightshiftError as error:
            raise NightshiftError(f"day {day}: {error.message}") from None
    days = f"{len(partitions)} days of {dataset['name']}, {min(partitions)} to {max(partitions)}"
    return f"{days}; {dataset.get('source')}; licence: {dataset.get('licence')}", {"dataset": dataset}


def _code(manifest: Manifest, run: tuple[Journal, dict[str, Any], str] | None) -> tuple[str, dict[str, Any]]:
    code: dict[str, str] = manifest.lineage.get("code") or {}
    where = os.environ.get("NIGHTSHIFT_REPO")
    if run is None or not code:
        raise Unchecked("no night ordered it, or its lineage names no code")
    commit = run[2]
    if not where:
        raise Unchecked(f"commit {commit[:12]}; no repository is set here (NIGHTSHIFT_REPO)")
    with Repository.open(where) as repository:
        if repository.find(commit) is None:
            raise NightshiftError(f"{where} has no commit {commit}")
        for path, md5 in code.items():
            content = repository.show(commit, path)
            found = hashlib.md5(content or b"", usedforsecurity=False).hexdigest()
            if content is None or found != md5:
                raise NightshiftError(f"{path} of commit {commit[:12]} is not the one that trained it ({md5})")
    return f"commit {commit[:12]}: {len(code)} files are those that trained it", {"commit": commit, "code": code}


def _download(objects: Objects, md5: str) -> bytes:
    """An object's bytes as the store has them, its digest computed."""
    with tempfile.TemporaryDirectory(prefix="nightshift-trace-") as scratch:
        file = Path(scratch) / "object"
        objects.download(md5, file)
        return file.read_bytes()


def _json(folder: Path, name: str) -> Any:
    if not (folder / name).is_file():
        raise Unchecked(f"the release has no {name}")
    return json.loads((folder / name).read_bytes())
