"""Compute a stage: bring exactly its inputs, let DVC run exactly this stage, push exactly its outputs; and the guards.

The fragments are laid over the tree, and what DVC recorded is looked at before anything is pushed. ``repro -s`` without
the inputs in place skips a stage whose inputs changed, and exits 0; so does ``--allow-missing`` without ``-s`` for a
file inside an output. The guards see both. A stage with something that the plan does not understand (``unclear``) is
pulled and pushed by DVC itself; every other by ``transfer``, which does the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightshift.engine import lock, transfer
from nightshift.engine.changes import changes
from nightshift.engine.checkpoints import VARIABLE, Checkpoints, forget
from nightshift.engine.journal import Journal
from nightshift.engine.objects import Objects, entry_hashes
from nightshift.engine.process import Ended
from nightshift.engine.settings import home, seconds
from nightshift.engine.workspace import Workspace, lay_over, workspace
from nightshift.errors import NightshiftError

DOING = {"pull": "fetching its inputs", "repro": "running", "push": "pushing outputs"}


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
        before = lock.entries(space.root)
        left = Checkpoints(journal.store, checkpoints, space.scratch / "checkpoints")
        left.bring()
        with left.kept(seconds("NIGHTSHIFT_CHECKPOINT_SECONDS", 120)):
            steps = _bring(plan, inputs, executables(before, base.get("wdirs", {})), objects, space)
            # What was never recorded must run: DVC skips a stage without dependencies whose outputs may be missing.
            forced = ["-f"] if force or plan["entry"] is None else []
            steps.append(["dvc", "repro", "-s", "--no-run-cache", *forced, name])
            if plan["unclear"]:
                steps[-1] += ["--pull", "--allow-missing"]
                steps.append(["dvc", "push", "-q", name])
            ended = space.run(steps, **{VARIABLE: str(left.folder)})
            after = lock.entries(space.root)
            # When DVC had nothing to do there is nothing here to push: the remote has it since it was recorded.
            if ended.status and not (steps[ended.step][1] == "push" and after == before):
                if steps[ended.step][1] == "pull":
                    _check_inputs(name, plan, inputs, objects)
                raise _failed(name, DOING[steps[ended.step][1]], ended, space.root)
            entry: dict[str, Any] = after.pop(name, {})
            before.pop(name, None)
            try:
                _guard(name, plan, inputs, entry)
            except NightshiftError:
                forget(journal.store, checkpoints)  # what it left was not made of these inputs either
                raise
            if others := [other for other in {*after, *before} if after.get(other) != before.get(other)]:
                raise NightshiftError(
                    f"running {name} changed the entries of {', '.join(sorted(others))} too",
                    "a stage must not run DVC itself: mend its command",
                )
            if not plan["unclear"]:
                transfer.push(objects, entry_hashes(entry["outs"]).values())
        return entry


def _check_inputs(name: str, plan: dict[str, Any], inputs: Mapping[str, str], objects: Objects) -> None:
    """DVC does not say which object could not be brought; it is the first one that is lost, or other than its name."""
    for path in plan["generated"]:
        try:
            for digest in {inputs[path], *objects.members(inputs[path]).values()}:
                objects.read(digest)
        except NightshiftError as error:
            raise NightshiftError(f"{name} reads {path}, but {error.message}", error.next_step) from None


def _bring(
    plan: dict[str, Any], inputs: Mapping[str, str], executable: set[str], objects: Objects, space: Workspace
) -> list[list[str]]:
    """Bring the inputs that stages and events made; the steps by which DVC has to do it."""
    if plan["unclear"]:
        # As `./path`: a bare one could be a stage's name, and DVC then leaves out the others, with exit status 0.
        paths = [f"./{path}" for path in plan["generated"]]
        return [["dvc", "pull", "-q", *paths]] if paths else []
    wanted = {path: inputs[path] for path in plan["generated"]}
    transfer.fetch(objects, wanted, space.root, space.scratch, executable & set(wanted))
    return []


def executables(entries: Mapping[str, Any], wdirs: Mapping[str, str]) -> set[str]:
    """The outputs of these lock entries that are executable files, as paths from the root."""
    found: set[str] = set()
    for name, entry in entries.items():
        runs = [out for out in entry.get("outs", []) if out.get("isexec")]
        found |= set(entry_hashes(runs, wdirs.get(name, ".")))
    return found


def _failed(name: str, doing: str, ended: Ended, root: Path) -> NightshiftError:
    message = f"{name} failed, {doing}: {ended.last_words()}"
    if any("No space left on device" in line for line in ended.tail):
        return NightshiftError(
            f"{message} ({transfer.free(root)} on the disk of {root})",
            "free space there, or set NIGHTSHIFT_HOME to a folder of a larger disk, and clear the task",
        )
    return NightshiftError(message, "read the lines above it, mend the cause, and clear the task")


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
