"""Compute a stage: the one sequence of DVC commands that never gave a wrong result with exit 0, and its guards.

Lay the fragments over the tree, bring exactly the inputs, run exactly this stage, look at what DVC recorded, push
exactly the outputs. ``repro -s`` without the inputs in place skips a stage whose inputs changed, and exits 0; so does
``--allow-missing`` without ``-s`` for a file inside an output. The guards see both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightshift.engine import lock
from nightshift.engine.changes import changes
from nightshift.engine.checkpoints import VARIABLE, Checkpoints
from nightshift.engine.journal import Journal
from nightshift.engine.objects import Objects, entry_hashes
from nightshift.engine.report import say
from nightshift.engine.settings import home, seconds
from nightshift.engine.workspace import lay_over, workspace
from nightshift.errors import NightshiftError

DOING = {
    "checkout": "bringing its inputs",
    "pull": "fetching its inputs",
    "repro": "running",
    "push": "pushing outputs",
}


def compute(
    journal: Journal,
    base: dict[str, Any],
    fragments: dict[str, dict[str, dict[str, Any]]],
    name: str,
    inputs: Mapping[str, str],
    objects: Objects,
    *,
    force: bool,
    checkpoints: str,
) -> dict[str, Any]:
    """Run the stage in a fresh workspace; returns its new lock entry, its outputs being in the remote.

    It goes on from what an earlier attempt left under the key ``checkpoints``.

    Raises:
        NightshiftError: a command failed (its last words), or the new lock entry is not of the inputs that were wanted.
    """
    plan = base["stages"][name]
    with workspace(home(), f"{journal.dag}-{journal.run}-{name}", journal.tree()) as space:
        lay_over(space.root, fragments)
        before = _entries(space.root)
        cached = all(objects.cached(inputs[path]) for path in plan["generated"])
        say(f"its inputs are {'in the cache of this machine' if cached else f'fetched from {objects.url}'}")
        bring = [["dvc", "checkout" if cached else "pull", "-q", *plan["generated"]]] if plan["generated"] else []
        repro = ["dvc", "repro", "-s", "--pull", "--allow-missing", "--no-run-cache", *(["-f"] if force else []), name]
        steps = [*bring, repro, ["dvc", "push", "-q", name]]
        left = Checkpoints(journal.store, checkpoints, space.scratch / "checkpoints")
        left.bring()
        with left.kept(seconds("NIGHTSHIFT_CHECKPOINT_SECONDS", 120)):
            ended = space.run(steps, **{VARIABLE: str(left.folder)})
            after = _entries(space.root)
            # When DVC had nothing to do there is nothing here to push: the remote has it since it was recorded.
            if ended.status and not (steps[ended.step][1] == "push" and after == before):
                if steps[ended.step][1] in ("checkout", "pull"):
                    _check_inputs(name, plan, inputs, objects)
                raise NightshiftError(
                    f"{name} failed, {DOING[steps[ended.step][1]]}: {ended.last_words()}",
                    "read the lines above it, mend the cause, and clear the task",
                )
        entry: dict[str, Any] = after.pop(name, {})
        before.pop(name, None)
        _guard(name, plan, inputs, entry)
        if others := [other for other in {*after, *before} if after.get(other) != before.get(other)]:
            raise NightshiftError(
                f"running {name} changed the entries of {', '.join(sorted(others))} too",
                "a stage must not run DVC itself: mend its command",
            )
        return entry


def _check_inputs(name: str, plan: dict[str, Any], inputs: Mapping[str, str], objects: Objects) -> None:
    """DVC does not say which object could not be brought; it is the first one that is lost, or other than its name."""
    for path in plan["generated"]:
        try:
            for digest in {inputs[path], *objects.members(inputs[path]).values()}:
                objects.read(digest)
        except NightshiftError as error:
            raise NightshiftError(f"{name} reads {path}, but {error.message}", error.next_step) from None


def _entries(root: Path) -> dict[str, Any]:
    file = root / "dvc.lock"
    stages: dict[str, Any] = lock.load(file.read_bytes()).get("stages", {}) if file.exists() else {}
    return stages


def _guard(name: str, plan: dict[str, Any], inputs: Mapping[str, str], entry: dict[str, Any]) -> None:
    """The new entry names exactly the inputs that this run wants; else DVC skipped, or read something else."""
    if not entry:
        raise NightshiftError(f"DVC recorded nothing for {name}", "read what it says above")
    wrong = [str(change) for change in changes(plan, inputs, entry)]
    if plan["unclear"]:  # then only hashes are known for sure
        recorded = entry_hashes(entry.get("deps", []), plan["wdir"])
        wrong = [path for path in inputs if path in recorded and recorded[path] != inputs[path]]
        wrong += [path for path in inputs if path not in recorded]
    if wrong:
        raise NightshiftError(
            f"{name} was not computed from what this run wants: {', '.join(wrong)}",
            "clear the task; when it happens again, the stage changes its own inputs",
        )


def push_record(objects: Objects, key: str, entry: dict[str, Any]) -> None:
    """The one run-cache record of this computation, after its outputs: who finds it finds them.

    DVC left it in the cache (also with ``--no-run-cache``, which only stops the look-up).
    """
    folder = objects.cache / "runs" / key[:2] / key
    for file in sorted(folder.iterdir()) if folder.exists() else []:
        record = lock.load(file.read_bytes())
        if entry_hashes(record.get("outs", [])) == entry_hashes(entry["outs"]):
            objects.store.put_new(f"runs/{key[:2]}/{key}/{file.name}", file.read_bytes())
