"""What a run will do, decided without DVC: per stage what it wants to read, and whether the lock entry says so.

``begin`` writes the part that is fixed; ingest, pin and other stages change inputs after it, so each task compares
again, with the fragments of its run. What the comparison does not understand goes to DVC: it is never guessed.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightshift.engine import key, rules
from nightshift.engine.objects import entry_hashes
from nightshift.errors import NightshiftError

PROFILES = "data/profiles/"
CHAMPIONS = "champions/"


def mine(graph: dict[str, Any], dag: str) -> list[str]:
    """The stages of a DAG."""
    return [name for name, stage in graph["stages"].items() if rules.dag_of(stage) == dag]


def lay(
    graph: dict[str, Any], names: list[str], root: Path, lock: dict[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    """The plan of these stages, and the hashes of all generated paths as the commit has them.

    Returns:
        ``stages``: name to cmd, wdir, outs, params, code (path to md5), generated (paths), upstream, entry, unclear
        (why it goes to DVC, or None); ``hashes``: generated path to md5; ``wdirs``: each stage that has one; ``ingest``
        and ``pin``: the data sets and
        models that this run's events bring.

    Raises:
        NightshiftError: a stage cannot be run (``rules``), or reads what the commit does not have; names the cure.
    """
    makers = {out["path"]: name for name, stage in graph["stages"].items() for out in stage["outs"]}
    hashes = {path: out["entry"].get("md5", "") for path, out in data.items()}
    for name, entry in lock.get("stages", {}).items():
        if name in graph["stages"]:
            hashes |= entry_hashes(entry.get("outs", []), graph["stages"][name]["wdir"])
    generated = {*makers, *data}
    stages = {}
    for name in names:
        rules.check(graph, name)
        _check_committed(name, graph["stages"][name], generated, root)
        stages[name] = _stage(graph["stages"][name], generated, root, lock.get("stages", {}).get(name))
    read = [path for name in names for path in graph["stages"][name]["deps"]]
    return {
        "stages": stages,
        "hashes": hashes,
        "wdirs": {name: stage["wdir"] for name, stage in graph["stages"].items() if stage["wdir"] != "."},
        "ingest": sorted({path.removeprefix(PROFILES) for path in read if path.startswith(PROFILES) and path in data}),
        "pin": sorted({Path(path).stem for path in read if path.startswith(CHAMPIONS) and path.endswith(".json")}),
    }


def wanted(name: str, base: dict[str, Any], fragments: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Path to md5 of all that a stage reads in this run.

    Raises:
        NightshiftError: something that this run has to make before is not made yet, or was never made.
    """
    plan = base["stages"][name]
    for kind, needed in (
        ("stages", [up for up in plan["upstream"] if up in base["stages"]]),
        ("data", [d for d in base["ingest"] if {f"data/{d}", PROFILES + d} & set(plan["generated"])]),
        ("champions", [model for model in base["pin"] if f"{CHAMPIONS}{model}.json" in plan["code"]]),
    ):
        missing = [other for other in needed if other not in fragments[kind]]
        if missing:
            raise NightshiftError(
                f"{name} reads what {', '.join(missing)} has not finished in this run", "clear that task first"
            )
    hashes = dict(base["hashes"])
    code = dict(plan["code"])
    for fragment in fragments["data"].values():
        hashes |= {path: out["md5"] for path, out in fragment["outs"].items()}
    for other, fragment in fragments["stages"].items():
        hashes |= entry_hashes(fragment["entry"]["outs"], base["stages"][other]["wdir"])
    for fragment in fragments["champions"].values():
        if fragment["path"] in code:
            code[fragment["path"]] = fragment["md5"]
    absent = [path for path in plan["generated"] if not hashes.get(path)]
    if absent:
        raise NightshiftError(
            f"{name} reads {', '.join(absent)}, which no run has made yet", "run the DAG that makes it"
        )
    return code | {path: hashes[path] for path in plan["generated"]}


def run_key(plan: dict[str, Any], inputs: Mapping[str, str]) -> str | None:
    """The stage's run-cache key; None when DVC keeps no record of it or names it in a way not understood here."""
    if plan["unclear"] or plan["executable"]:
        return None
    return key.run_key(plan["cmd"], inputs, plan["params"], plan["outs"])


def _stage(stage: dict[str, Any], generated: set[str], root: Path, entry: dict[str, Any] | None) -> dict[str, Any]:
    code, executable, unclear = {}, False, _unclear(stage, entry)
    for path in stage["deps"]:
        if path in generated:
            continue
        digest, runs = _code(root, path)
        executable = executable or runs
        if digest is None:
            unclear = unclear or f"{path} is hashed by DVC only"
        else:
            code[path] = digest
    return {
        "cmd": stage["cmd"],
        "wdir": stage["wdir"],
        "outs": sorted(out["path"] for out in stage["outs"]),
        "params": stage["values"] or {},
        "code": code,
        "executable": executable,
        "generated": sorted(path for path in stage["deps"] if path in generated),
        "upstream": stage["upstream"],
        "entry": entry,
        "unclear": unclear,
    }


def _unclear(stage: dict[str, Any], entry: dict[str, Any] | None) -> str | None:
    """Why the comparison is left to DVC; None when it is understood whole."""
    if stage["values"] is None:
        return "a parameter is no plain value"
    for file, keys in stage["params"].items():
        if missing := [name for name in keys if name not in stage["values"].get(file, {})]:
            return f"{file} has no {', '.join(missing)}"
    if not stage["deps"] or not stage["outs"]:
        return "it has no dependencies or no outputs"
    for flag in ("frozen", "always_changed"):
        if stage[flag]:
            return flag
    if stage["wdir"] != ".":
        return "it has a wdir"
    items = [] if entry is None else [*entry.get("deps", []), *entry.get("outs", [])]
    if any(item.get("hash") != "md5" or "md5" not in item for item in items):
        return "its lock entry is of another DVC"
    return None


def _code(root: Path, path: str) -> tuple[str | None, bool]:
    """md5 of a file or folder of the commit, and whether it is an executable file (part of DVC's key then)."""
    at = root / path
    if at.is_symlink():
        return None, False
    if at.is_file():
        return key.md5(at.read_bytes()), bool(at.stat().st_mode & stat.S_IXUSR)
    files = {file.relative_to(at).as_posix(): file for file in at.rglob("*") if not file.is_dir() or file.is_symlink()}
    if any(file.is_symlink() for file in files.values()) or _ignored(root, path, files):
        return None, False
    return key.listing({name: key.md5(file.read_bytes()) for name, file in files.items()})[0], False


def _ignored(root: Path, path: str, files: Mapping[str, Path]) -> bool:
    """Whether .dvcignore may leave something of this folder out."""
    if any(Path(name).name in (".dvcignore", ".git", ".hg") for name in files):
        return True
    ignore = root / ".dvcignore"
    if not ignore.exists():
        return False
    import pathspec  # DVC's own matcher; few stages depend on a folder of code

    spec = pathspec.GitIgnoreSpec.from_lines(ignore.read_text().splitlines())
    return any(spec.match_file(f"{path}/{name}") for name in files)


def _check_committed(name: str, stage: dict[str, Any], generated: set[str], root: Path) -> None:
    who = f"{rules.place(stage)}: stage {name!r}"
    for path in stage["deps"]:
        if path not in generated and not (root / path).exists():
            raise NightshiftError(
                f"{who} depends on {path}, which is neither in the commit nor made by a stage",
                f"`git add {path}`, or mend the path",
            )
    for out in stage["outs"]:
        if (root / out["path"]).exists():  # the tree is fresh: nothing has run in it
            raise NightshiftError(
                f"{who} makes {out['path']}, which is in the commit too", f"git rm -r --cached {out['path']}"
            )
