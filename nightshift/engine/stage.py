"""One stage of one run: unchanged, restored from what somebody computed before, or computed here.

Its fragment, the stage's entry of dvc.lock, is put last and create-only: it is the record that this happened.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nightshift.engine import checkpoints, costs, durations
from nightshift.engine import plan as plans
from nightshift.engine.changes import Change, changes
from nightshift.engine.journal import Journal
from nightshift.engine.lease import lease
from nightshift.engine.objects import Objects, entry_hashes
from nightshift.engine.report import Receipt, say
from nightshift.engine.settings import home, seconds
from nightshift.errors import NightshiftError

Fragments = dict[str, dict[str, dict[str, Any]]]


def stage(name: str, dag: str, run: str, attempt: int = 1) -> Receipt:
    """Bring the run to hold this stage's entry.

    Raises:
        NightshiftError: the stage failed, read something else than this run wants, or gave other bytes than before
            from the same inputs.
    """
    journal = Journal.open(dag, run)
    base = journal.base()
    if name not in base["stages"]:
        raise NightshiftError(f"{name} is no stage of {dag} at commit {base['commit'][:12]}", "trigger the DAG again")
    fragments = journal.fragments()
    if name in fragments["stages"]:
        from nightshift.engine.sweep import survive

        # That attempt may have been killed before it looked.
        made = entry_hashes(fragments["stages"][name]["entry"].get("outs", []))
        survive(journal.store, Objects(base["remote"], home() / "cache"), made.values())
        return _receipt(name, fragments["stages"][name], "found: an earlier attempt finished it")
    plan = base["stages"][name]
    inputs = plans.wanted(name, base, fragments)
    rerun = base["conf"]["rerun"]
    changed = changes(plan, inputs, plan["entry"])

    if plan["unclear"] == "frozen":
        if plan["entry"] is None:
            raise NightshiftError(f"{name} is frozen and was never recorded", f"dvc unfreeze {name}, or record it once")
        return _put(journal, name, plan["entry"], "unchanged", inputs, "frozen")
    if not changed and not plan["unclear"] and not rerun:
        return _put(journal, name, plan["entry"], "unchanged", inputs, "its inputs are those of the recorded run")

    for line in [*map(str, changed), *([f"left to DVC: {plan['unclear']}"] if plan["unclear"] else [])]:
        say(f"{name} changed: {line}")
    objects = Objects(base["remote"], home() / "cache")
    key = plans.run_key(plan, inputs)

    def computed() -> Receipt:
        return _computed(journal, base, fragments, name, inputs, objects, key, attempt)

    if rerun or not key:
        return computed()
    if receipt := _restored(journal, name, plan, inputs, objects, key):
        return receipt
    with lease(journal.store, key, f"run {run} of {dag}", seconds("NIGHTSHIFT_LEASE_SECONDS", 10)):
        # Who held it before has left its result; an attempt of this very task, in this run's journal.
        if found := journal.get(f"stages/{name}.json"):
            return _receipt(name, found, "found: an earlier attempt finished it")
        return _restored(journal, name, plan, inputs, objects, key) or computed()


def _restored(
    journal: Journal, name: str, plan: dict[str, Any], inputs: Mapping[str, str], objects: Objects, key: str
) -> Receipt | None:
    """What somebody computed before from the same inputs, if the remote still has all of it."""
    for record in objects.records(key):
        if changes(plan, inputs, record):
            continue
        if lost := objects.lost(record):
            say(f"computed before, but {objects.url} has lost {', '.join(lost)}")
        else:
            return _put(journal, name, record, "restored", inputs, "somebody computed it from the same inputs before")
    return None


def _computed(
    journal: Journal,
    base: dict[str, Any],
    fragments: Fragments,
    name: str,
    inputs: Mapping[str, str],
    objects: Objects,
    key: str | None,
    attempt: int,
) -> Receipt:
    from nightshift.engine.compute import compute, push_record
    from nightshift.engine.sweep import survive

    meter = costs.Meter()
    say(f"attempt {attempt} of {name}")
    plan, rerun = base["stages"][name], base["conf"]["rerun"]
    changed = changes(plan, inputs, plan["entry"])
    left = key or checkpoints.key_of([name, plan, inputs])
    if rerun:  # it computes in any case: of what others left it takes nothing
        left = checkpoints.key_of([left, journal.dag, journal.run])
    entry = compute(journal, base, fragments, name, inputs, objects, force=rerun, checkpoints=left)
    if rerun:
        recorded = [] if changed or plan["unclear"] else [plan["entry"]]
        recorded += [record for record in (objects.records(key) if key else []) if not changes(plan, inputs, record)]
        for other in recorded:
            _same_bytes(name, entry, other)
    used = meter.read(base["params"].get("costs") or {})
    took = used["seconds"]
    if entry == plan["entry"] and not rerun:
        receipt = _put(journal, name, entry, "unchanged", inputs, "DVC leaves its entry as it was")
    else:
        receipt = _put(journal, name, entry, "done", inputs, f"computed in {took:.0f} s", changed, used)
        say(f"{name} took {costs.said(used)}")
    survive(journal.store, objects, entry_hashes(entry["outs"]).values())
    durations.note(journal.store, name, took)
    if key:
        push_record(objects, key, entry)
    checkpoints.forget(journal.store, left)
    return receipt


def _put(
    journal: Journal,
    name: str,
    entry: dict[str, Any],
    outcome: str,
    inputs: Mapping[str, str],
    why: str,
    changed: Sequence[Change] = (),
    used: costs.Used | None = None,
) -> Receipt:
    fragment = {
        "stage": name,
        "entry": entry,
        "outcome": outcome,
        "why": why,
        "changed": [str(change) for change in changed],
        "used": used,
        "inputs": inputs,
    }
    if journal.put(f"stages/{name}.json", fragment):
        return _receipt(name, fragment, why)
    standing = journal.get(f"stages/{name}.json")
    if standing is None:
        raise NightshiftError(f"the fragment of {name} vanished from {journal.prefix}", "clear the task")
    _same_bytes(name, entry, standing["entry"])
    return _receipt(name, standing, "another attempt was faster, with the same bytes")


def _receipt(name: str, fragment: dict[str, Any], why: str) -> Receipt:
    return Receipt(fragment["outcome"], f"{name}: {why}", {"stage": name, "changed": fragment["changed"]})


def _same_bytes(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raises NightshiftError when the same inputs gave other bytes; names both digests."""
    mine, other = entry_hashes(ours["outs"]), entry_hashes(theirs["outs"])
    different = [path for path in sorted({*mine, *other}) if mine.get(path) != other.get(path)]
    if different:
        path = different[0]
        raise NightshiftError(
            f"{name} gave other bytes from the same inputs: {path} is {mine.get(path)}, and was {other.get(path)}"
            + (f" (and {len(different) - 1} more)" if different[1:] else ""),
            "make the stage deterministic (seed, threads, no clock), or name what changed it under its params or deps",
        )
