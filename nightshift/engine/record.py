"""Record: one commit on the branch with what this run found, merged entry by entry onto whatever the tip is by then.

A stale lock entry is never wrong (DVC repeats the stage), so an entry is replaced where the tip still has that of the
run's base, and a newer one is left and named.
"""

import random
import re
import time
from typing import Any

from nightshift.engine import lock, overrides
from nightshift.engine.journal import Journal, safe
from nightshift.engine.report import Receipt, say
from nightshift.engine.repository import Repository
from nightshift.engine.settings import setting
from nightshift.errors import NightshiftError

ATTEMPTS = 60  # about 16 seconds: longer than the lock of a killed Git counts (repository.STALE_S)


def record(dag: str, run: str) -> Receipt:
    """Move the branch to a commit that holds this run's entries; does nothing when the tip holds them.

    Raises:
        NightshiftError: the branch cannot be moved, or moved under every attempt.
    """
    journal = Journal.open(dag, run)
    base = journal.base()
    found = journal.get("record.json")
    if found is None:
        fragments = journal.fragments()
        if missing := sorted(set(base["stages"]) - set(fragments["stages"])):
            raise NightshiftError(f"{', '.join(missing)} did not finish in this run", "clear that task first")
        found = _record_aside(journal, base, fragments) if base.get("overrides") else _record(journal, base, fragments)
        if not journal.put("record.json", found):
            found = journal.get("record.json") or found
    details = {"commit": found["commit"], "recorded": found["recorded"], "left": found["left"]}
    details |= {name: base["conf"][name] for name in ("rerun", "reason")}  # for the runs that this one starts
    details["nights"] = base.get("nights", [])
    return Receipt(found["outcome"], found["message"], details)


def _record(journal: Journal, base: dict[str, Any], fragments: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    branch, lost = base["branch"], ""
    line = f"Nightshift-Run: {journal.dag}/{journal.run}"
    with Repository.open(setting("NIGHTSHIFT_REPO")) as repository:
        for _ in range(ATTEMPTS):
            tip = repository.tip(branch)
            # An attempt may have died between moving the branch and saying so.
            if done := repository.recorded(tip, base["commit"], line):
                return {"outcome": "done", "commit": done, "message": "recorded before", "recorded": [], "left": []}
            files, recorded, left = merged(repository, tip, base, fragments)
            for name in left:
                say(f"left as it is, because the branch has a newer one: {name}")
            subject = _subject(journal, recorded)
            new = repository.commit(tip, files, f"{subject}\n\n{line}\n") if files else None
            if new is None:
                message = f"nothing recorded: newer on the branch: {', '.join(left)}" if left else "nothing to record"
                at = tip if repository.contains(tip, base["commit"]) else base["commit"]
                return {"outcome": "nothing", "commit": at, "message": message, "recorded": [], "left": left}
            lost = repository.advance(branch, new, tip)
            if not lost:
                message = f"{subject}: commit {new[:12]} on {branch}"
                return {"outcome": "done", "commit": new, "message": message, "recorded": recorded, "left": left}
            time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - so that two who lost do not meet again
    raise NightshiftError(
        f"branch {branch} could not be moved in {ATTEMPTS} attempts: {lost}",
        "give this identity the right to push there, or remove a lock that Git names; then clear the task `record`",
    )


def _record_aside(
    journal: Journal, base: dict[str, Any], fragments: dict[str, dict[str, dict[str, Any]]]
) -> dict[str, Any]:
    """A run with overrides: on a branch of its own, on the commit that it was based on, with its params.yaml."""
    branch = branch_name("nightshift", journal.dag, journal.run)
    with Repository.open(setting("NIGHTSHIFT_REPO")) as repository:
        files, recorded, _ = merged(repository, base["commit"], base, fragments)
        files["params.yaml"] = overrides.params_of(journal.tree())
        subject = f"{_subject(journal, recorded)} with {overrides.said(base['overrides'])}"[:120]
        line = f"Nightshift-Run: {journal.dag}/{journal.run}"
        new = repository.commit(base["commit"], files, f"{subject}\n\n{line}\n") or base["commit"]
        for _ in range(ATTEMPTS):
            lost = repository.advance(branch, new, "")
            standing = repository.head(branch)
            if standing is not None:
                break
            time.sleep(random.uniform(0.05, 0.5))  # noqa: S311
        # An attempt may have died between this and saying so: its commit has the same files.
        if standing is None or not repository.same_tree(standing, new):
            raise NightshiftError(f"branch {branch} could not be made: {lost}", "mend it, and clear the task `record`")
        new = standing
    message = f"{subject}: commit {new[:12]} on {branch}"
    return {"outcome": "done", "commit": new, "branch": branch, "message": message, "recorded": recorded, "left": []}


def branch_name(*parts: str) -> str:
    """A branch named after a run, with the characters that Git allows."""
    return "/".join(re.sub(r"\.lock$", "-lock", re.sub(r"\.(?=\.|$)|^\.", "-", safe(part))) for part in parts)


def merged(
    repository: Repository, tip: str, base: dict[str, Any], fragments: dict[str, dict[str, dict[str, Any]]]
) -> tuple[dict[str, bytes], list[str], list[str]]:
    """The files of the tip with this run's entries: path to content, what was replaced, and what was left as newer."""
    files: dict[str, bytes] = {}
    recorded: list[str] = []
    left: list[str] = []

    def ours(name: str, now: Any, was: Any, wanted: Any) -> bool:
        if now == wanted or wanted == was:
            return False
        (recorded if now == was else left).append(name)
        return bool(now == was)

    changes: dict[str, dict[str, Any]] = {}
    for fragment in fragments["data"].values():
        for path, entry in fragment["outs"].items():
            file = fragment["files"][path]
            known = base["data"][path]
            was = None if known.get("new") else known["entry"]
            if ours(path, _out(repository.show(tip, file), entry["path"]), was, entry):
                changes.setdefault(file, {})[entry["path"]] = entry
    for file, outs in changes.items():
        files[file] = lock.merge_data(repository.show(tip, file), outs)

    content = repository.show(tip, "dvc.lock")
    entries = lock.load(content).get("stages", {})
    new = {
        name: fragment["entry"]
        for name, fragment in sorted(fragments["stages"].items(), key=lambda item: base["order"].index(item[0]))
        if ours(name, entries.get(name), base["stages"][name]["entry"], fragment["entry"])
    }
    if new:
        files["dvc.lock"] = lock.merge_lock(content, new, base["order"])

    for model, fragment in fragments["champions"].items():
        now = repository.show(tip, fragment["path"])
        if ours(fragment["path"], now and now.decode(), base["champions"][model], fragment["text"]):
            files[fragment["path"]] = fragment["text"].encode()
    return files, recorded, left


def _out(content: bytes | None, path: str) -> Any:
    return next((out for out in lock.load(content).get("outs", []) if out["path"] == path), None)


def _subject(journal: Journal, recorded: list[str]) -> str:
    """One line: the data's days if ingest took some, else the stages."""
    days = [
        f"{day['rows']} rows of {name.removeprefix('data/')} {day['date']}"
        for name in recorded
        if name.startswith("data/") and not name.startswith("data/profiles/")
        for day in (journal.get(f"ingest/{name.removeprefix('data/')}.json") or {}).get("taken", [])
    ]
    stages = [name.partition("@")[0] for name in recorded if "/" not in name]
    return f"{journal.dag}: {', '.join(days or stages or recorded)}"[:120]
