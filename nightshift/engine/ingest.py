"""Ingest: what has landed since becomes part of the snapshot, at the cost of the new days and not of the history.

Of the old snapshot only its index is fetched. New files are added to the outputs of ``data.dvc`` one by one
(``dvc add data/<dataset>/<file>``), which needs nothing of the old ones.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from nightshift.engine import graph, held
from nightshift.engine.journal import Journal
from nightshift.engine.key import EMPTY_LISTING, md5
from nightshift.engine.objects import Objects, cache_of, remote_url
from nightshift.engine.report import Receipt
from nightshift.engine.settings import PERSONAL_SECRET, home, setting
from nightshift.engine.sweep import survive
from nightshift.engine.workspace import Workspace, lay_data, workspace
from nightshift.errors import NightshiftError
from nightshift.releases.store import open_store


def ingest(dataset: str, dag: str, run: str) -> Receipt:
    """Take what has landed into this run's snapshot: its entries of data.dvc, and a report.

    Raises:
        NightshiftError: the pipeline's ingest failed (its last words), or objects of the snapshot are missing.
    """
    journal = Journal.open(dag, run)
    base = journal.base()
    objects = Objects(base["remote"], home() / "cache")
    if found := journal.get(f"data/{dataset}.json"):
        # That attempt may have been killed before it looked.
        survive(journal.store, objects, [out["md5"] for out in found["outs"].values()])
        return _receipt(dataset, found, journal.get(f"ingest/{dataset}.json") or {})
    paths = _paths(dataset)
    with workspace(home(), f"{dag}-{run}-ingest-{dataset}", journal.tree()) as space:
        known = {path: base["data"].get(path) or graph.first_entry(path) for path in paths}
        files = {path: known[path]["file"] for path in paths}
        outs = {path: known[path]["entry"] for path in paths}
        lay_data(space.root, outs, files)
        bring_index(space.root, dataset, outs[paths[1]]["md5"], objects)
        report = _take(space, dataset, base["until"], held.days(journal.store, dataset))
        changed = sorted({*report["changed"], *report["removed"]})
        if changed:
            _add(space, changed, push=True)
        now = graph.tracked(space.root, dict.fromkeys(files.values(), ""))
        outs = {path: now[path]["entry"] for path in paths}
    journal.put(f"ingest/{dataset}.json", report)
    fragment = {"dataset": dataset, "outs": outs, "files": files, "outcome": "done" if changed else "nothing"}
    if not journal.put(f"data/{dataset}.json", fragment):
        # Another attempt was faster: this run's snapshot is the one that stands.
        fragment = journal.get(f"data/{dataset}.json") or fragment
    if changed:
        survive(journal.store, objects, [out["md5"] for out in outs.values()])
    return _receipt(dataset, fragment, journal.get(f"ingest/{dataset}.json") or report)


def ingest_into(root: Path, dataset: str, until: str) -> dict[str, Any]:
    """The same for a person in a checkout: into its working tree and its own data.dvc, edited or not.

    Nothing is pushed or committed. Returns the report of ``pipelines.ingest``.

    Raises:
        NightshiftError: as ``ingest``; also when the snapshot's index in the checkout was edited by hand.
    """
    data = graph.tracked(root, {"data.dvc": ""})
    paths = _paths(dataset)
    known = {path: (data.get(path) or graph.first_entry(path))["entry"] for path in paths}
    if absent := [path for path in paths if path not in data]:
        lay_data(root, {path: known[path] for path in absent}, dict.fromkeys(absent, "data.dvc"))
    objects = Objects(remote_url(root / ".dvc" / "config"), cache_of(root))
    bring_index(root, dataset, known[paths[1]]["md5"], objects)
    with tempfile.TemporaryDirectory(prefix="nightshift-ingest-") as scratch:
        space = Workspace(root, Path(scratch))
        report = _take(space, dataset, until, held.days(open_store(setting("NIGHTSHIFT_WORK")), dataset))
        changed = sorted({*report["changed"], *report["removed"]})
        if changed:
            _add(space, changed, push=False)
    return report


def _paths(dataset: str) -> tuple[str, str]:
    return f"data/{dataset}", f"data/profiles/{dataset}"


def bring_index(root: Path, dataset: str, listing: str, objects: Objects) -> None:
    """The snapshot's index, which is all of it that ingest reads."""
    target = root / "data" / "profiles" / dataset / "index.json"
    wanted = objects.members(listing).get("index.json") if listing != EMPTY_LISTING else None
    if target.exists():
        if wanted and md5(target.read_bytes()) != wanted:
            raise NightshiftError(
                f"{target} is not the one that data.dvc names", f"dvc checkout --force {target.parent}"
            )
        return
    if wanted:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(objects.read(wanted))


def _take(space: Workspace, dataset: str, until: str, decided: list[dict[str, Any]]) -> dict[str, Any]:
    held_file, report_file = space.scratch / "held.json", space.scratch / "report.json"
    held_file.write_text(json.dumps(decided))
    command = ["run", "python", "-m", "pipelines.ingest", dataset, "--until", until]
    command += ["--held", str(held_file), "--report", str(report_file)]
    # Of all that a run starts, ingest alone sees personal data, and has the secret that keys its hashes.
    secret = {PERSONAL_SECRET: os.environ[PERSONAL_SECRET]} if PERSONAL_SECRET in os.environ else {}
    _run(space, [command], f"ingest of {dataset}", **secret)
    report: dict[str, Any] = json.loads(report_file.read_text())
    return report


def _add(space: Workspace, changed: list[str], *, push: bool) -> None:
    steps = [["dvc", "add", "-q", *changed]]
    if push:
        steps.append(["dvc", "push", "-q", *[path for path in changed if (space.root / path).exists()]])
    _run(space, steps, "adding to the snapshot")


def _run(space: Workspace, steps: list[list[str]], what: str, **more: str) -> None:
    ended = space.run(steps, **more)
    if ended.status:
        raise NightshiftError(f"{what} failed: {ended.last_words()}", "read the lines above; mend it and run it again")


def _receipt(dataset: str, fragment: dict[str, Any], report: dict[str, Any]) -> Receipt:
    taken = report.get("taken", [])
    days = ", ".join(f"{day['date']} ({day['why']}, {day['rows']} rows)" for day in taken)
    message = f"took {days}" if days else "nothing new has landed"
    if dropped := report.get("dropped"):
        message += f"; took out {', '.join(day['date'] for day in dropped)}"
    if back := report.get("held"):
        message += f"; held back: {', '.join(day['date'] for day in back)}"
    shown = {"taken", "dropped", "held", "left_out", "rows", "quarantined", "skipped_after_until", "stale"}
    details = {key: value for key, value in report.items() if key in shown}
    return Receipt(fragment["outcome"], f"{dataset}: {message}", details)
