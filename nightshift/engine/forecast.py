"""What a night would do, foreseen from a commit without running or writing anything.

A stage is compared as its task will compare it (``changes``), in the order of the graph. An input that is made
in between is known only when its maker is unchanged or restored; of the rest it is said that they will change (a day
is taken) or that they may (a stage that computes can give the bytes that it gave before).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nightshift.engine import held
from nightshift.engine import plan as plans
from nightshift.engine.changes import changes, kind
from nightshift.engine.ingest import bring_index
from nightshift.engine.key import md5
from nightshift.engine.objects import Objects, entry_hashes
from nightshift.engine.settings import child_environment
from nightshift.errors import NightshiftError
from nightshift.releases.store import Store

WILL, MAY, UNCHANGED, RESTORED = "will run", "may run", "unchanged", "restored"
TASK_S = 3  # what Airflow itself takes per task, measured on two cores

Record = dict[str, Any]
Pin = Callable[[str, dict[str, Any], Mapping[str, str]], tuple[dict[str, Any], str]]


def days(root: Path, base: Mapping[str, Any], until: str, objects: Objects, store: Store) -> dict[str, dict[str, Any]]:
    """Per data set what ingest would take, hold and leave: the report of ``pipelines.ingest --plan``, or its ``error``.

    Args:
        root: the commit's tree, in a folder that nobody else uses: the snapshot's index is brought there.
        until: the last day that counts.
    """
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda dataset: _days(root, base, dataset, until, objects, store), base["ingest"])
        return dict(zip(base["ingest"], found, strict=True))


def _days(
    root: Path, base: Mapping[str, Any], dataset: str, until: str, objects: Objects, store: Store
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="nightshift-plan-") as scratch:
        decided, report = Path(scratch) / "held.json", Path(scratch) / "report.json"
        try:
            bring_index(root, dataset, base["hashes"][plans.PROFILES + dataset], objects)
            decided.write_text(json.dumps(held.days(store, dataset)))
        except NightshiftError as error:
            return {"error": error.message}
        command = [sys.executable, "-m", "pipelines.ingest", dataset, "--plan", "--until", until]
        command += ["--held", str(decided), "--report", str(report)]
        done = subprocess.run(command, cwd=root, env=child_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            return {"error": lines[-1] if lines else f"ingest exited with {done.returncode}"}
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def changing(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Each path that ingest would change: True when it will, False when it may."""
    found: dict[str, bool] = {}
    for dataset, report in reports.items():
        taken, dropped = report.get("taken", []), report.get("dropped", [])
        if taken or dropped or "error" in report:
            sure = bool(dropped) or any(day["sure"] for day in taken)
            found |= {f"data/{dataset}": sure, plans.PROFILES + dataset: sure}
    return found


def complete_records(objects: Objects, key: str) -> list[Record]:
    """The run-cache records under a key whose outputs the remote holds whole: a stage would be restored from one."""
    return [record for record in objects.records(key) if not objects.lost(record)]


def stages(
    base: Mapping[str, Any],
    changed: Mapping[str, bool],
    *,
    rerun: bool,
    find: Callable[[str], list[Record]],
    pin: Pin | None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each stage in the order of the graph: ``stage``, ``outcome``, ``why``; and per model what pin would say.

    Args:
        base: as ``begin`` lays it, of all stages.
        changed: paths that ingest changes (see ``changing``).
        find: the complete run-cache records under a key.
        pin: ``pin.meet``; None when the ledger cannot be asked.
    """
    hashes, open_ = dict(base["hashes"]), dict(changed)
    champions: dict[str, str] = {}
    pinned: dict[str, str] = {}
    found = []
    for name in (name for name in base["order"] if name in base["stages"]):
        plan = base["stages"][name]
        code = dict(plan["code"])
        unknown = {path: open_[path] for path in plan["generated"] if path in open_}
        for model in [model for model in base["pin"] if f"{plans.CHAMPIONS}{model}.json" in code]:
            path = f"{plans.CHAMPIONS}{model}.json"
            if model not in champions:
                if unknown or pin is None:
                    champions[model] = "named when the challenger is there"
                else:
                    before = json.loads(base["champions"][model])
                    now, champions[model] = pin(model, before, {p: hashes[p] for p in plan["generated"]})
                    pinned[path] = code[path] if now == before else md5((json.dumps(now) + "\n").encode())
            if path in pinned:
                code[path] = pinned[path]
            else:
                unknown[path] = False
        had = entry_hashes((plan["entry"] or {}).get("deps", []), plan["wdir"])
        # What is not known is compared as if it were as recorded, and named apart.
        inputs = code | {path: hashes.get(path, "") for path in plan["generated"]}
        inputs |= {path: had.get(path, "") for path in unknown}
        record = None
        outcome, why = _outcome(plan, inputs, unknown, rerun=rerun)
        if outcome == WILL and not unknown and not rerun and (key := plans.run_key(plan, inputs)):
            record = next((r for r in find(key) if not changes(plan, inputs, r)), None)
            outcome = RESTORED if record else WILL
        if outcome == RESTORED and record:
            hashes |= entry_hashes(record["outs"], plan["wdir"])
        if outcome in (WILL, MAY):
            open_ |= dict.fromkeys(plan["outs"], False)
        found.append({"stage": name, "outcome": outcome, "why": why})
    return found, champions


def _outcome(
    plan: dict[str, Any], inputs: Mapping[str, str], unknown: Mapping[str, bool], *, rerun: bool
) -> tuple[str, list[str]]:
    if plan["unclear"] == "frozen":
        return UNCHANGED, ["frozen"]
    if plan["entry"] is None:
        return WILL, [str(change) for change in changes(plan, inputs, None)]
    why = [] if plan["unclear"] else [str(change) for change in changes(plan, inputs, plan["entry"])]
    will = bool(why) or any(unknown.values()) or rerun
    why += [f"{kind(path, plan)} {path} {'will' if sure else 'may'} change" for path, sure in sorted(unknown.items())]
    if plan["unclear"]:
        why.append(f"left to DVC: {plan['unclear']}")
    if rerun:
        why.append("a rerun is asked for")
    return (WILL if will else MAY if why else UNCHANGED), why


def seconds(
    found: list[dict[str, Any]], base: Mapping[str, Any], known: Callable[[str], float | None]
) -> dict[str, Any]:
    """How long the night takes, by what each stage took when it was last computed; adds ``seconds`` to each stage.

    Returns:
        ``longest``: of the longest path through the graph, as when nothing else waits for a processor; ``all``: of one
        thing after the other; both with all stages that may run. ``unknown``: those that were never computed.
    """
    ends: dict[str, float] = {}
    unknown, total = [], 0.0
    for one in found:
        one["seconds"] = known(one["stage"]) if one["outcome"] in (WILL, MAY) else None
        if one["outcome"] in (WILL, MAY) and one["seconds"] is None:
            unknown.append(one["stage"])
        took = (one["seconds"] or 0.0) + TASK_S
        plan = base["stages"][one["stage"]]
        ends[one["stage"]] = took + max((ends[up] for up in plan["upstream"] if up in ends), default=0.0)
        total += took
    # begin, ingest, accept, record; begin, pin, record, deploy
    around = TASK_S * 8
    events = TASK_S * 4 * (len(base["ingest"]) + len(base["pin"]))
    return {
        "longest": round(max(ends.values(), default=0.0) + around),
        "all": round(total + events),
        "unknown": unknown,
    }
