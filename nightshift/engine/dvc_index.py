"""All that is read through DVC's Python side: the resolved graph of a project, as plain JSON.

DVC itself resolves templates, ``foreach``, ``matrix``, ``vars`` and the edges; there is no second resolver. The data
and dvc.lock are not needed. Everything else that the engine wants of DVC goes through its command line (``child.py``).
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from nightshift.engine import places, rules
from nightshift.errors import NightshiftError

FORMAT = 2
PROFILES = "data/profiles/"
# Nothing is written: the cache is only named, because DVC looks up its name for an import.
CONFIG = {"core": {"no_scm": True}, "cache": {"dir": ".dvc/cache"}}


def read(root: Path) -> dict[str, Any]:
    """The graph of the project in ``root``, as its files are: with or without Git, and before ``dvc init`` too.

    Returns:
        ``stages``: name to cmd, wdir, deps, params (file to keys), values (file to key to value), outs, outside (what
        of these lies outside the project), upstream (as DVC names it, .dvc files too), meta, desc, frozen,
        always_changed, file and line, in the order in which ``dvc repro`` runs them; ``elsewhere``: the same of stages
        outside the root's dvc.yaml, which nights do not run; ``data``: the outputs of .dvc files, and those of data
        sets that have no entry there yet; ``unfit``: of these, path to the reason and cure why no worker can fetch it;
        ``refused``: see ``rules.refusals``. Paths are relative to the root.

    Raises:
        NightshiftError: DVC cannot read the project; its own words name file and line.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    root = Path(os.path.abspath(root))  # noqa: PTH100 - a link to the project stays one, as it does for DVC
    try:
        with contextlib.chdir(root), Repo(str(root), uninitialized=True, config=CONFIG) as repo:
            index = repo.index
            index.check_graph()
            names = {stage: _name(root, stage) for stage in index.stages}
            marks = {path: places.document(Path(path)) for path in {stage.path for stage in index.stages if stage.cmd}}
            ordered = [stage for stage in plan_repro(get_active_graph(index.graph), index.stages) if stage.cmd]
            described = {names[stage]: _stage(root, index.graph, stage, names, marks) for stage in ordered}
            data = [(_path(root, out), stage, out) for stage in index.stages if not stage.cmd for out in stage.outs]
            stages = {name: stage for name, stage in described.items() if stage["file"] == "dvc.yaml"}
            paths = {path for path, _, _ in data}
            graph = {
                "format": FORMAT,
                "stages": stages,
                "elsewhere": {name: stage for name, stage in described.items() if name not in stages},
                "data": sorted(paths | _new_data(root, stages, paths)),
                "unfit": {path: why for path, stage, out in data if (why := _unfit(stage, out))},
            }
    except DvcException as error:
        raise NightshiftError(f"DVC cannot read the graph: {places.told(root, error)}", "mend it there") from error
    return graph | {"refused": rules.refusals(graph)}


def _new_data(root: Path, stages: dict[str, Any], data: set[str]) -> set[str]:
    """The data sets that are nowhere yet: ingest writes the first entries of one whose profiles a stage reads."""
    read = {path for stage in stages.values() for path in stage["deps"]} - data
    read -= {out["path"] for stage in stages.values() for out in stage["outs"]}
    profiles = {path for path in read if path.startswith(PROFILES) and not (root / path).exists()}
    return profiles | (read & {f"data/{path.removeprefix(PROFILES)}" for path in profiles})


def _unfit(stage: Any, out: Any) -> list[str] | None:
    """Why a worker cannot fetch an output of a .dvc file, and the cure."""
    again = "`dvc get` or download it, and `dvc add` it"
    if stage.is_repo_import:
        return ["is imported from another repository, and DVC keeps no copy in the remote", again]
    if stage.deps and not stage.frozen:
        return ["is imported anew by every `dvc repro`, since it is not frozen", f"dvc freeze {stage.relpath}"]
    if stage.is_versioned_import or stage.is_partial_import:
        return ["is imported without a copy in the remote", again]
    if not out.use_cache or not out.can_push:
        return ["is never pushed", "remove `cache: false` or `push: false` from its .dvc file"]
    if out.remote:
        return [f"is kept in the remote {out.remote}, and nights read the default one", "keep it in the default remote"]
    if out.hash_info and out.hash_name != "md5":
        return ["was added by an older DVC, under another hash", "dvc cache migrate --dvc-files, dvc push, and commit"]
    return None


def _stage(root: Path, graph: Any, stage: Any, names: dict[Any, str], marks: dict[str, Any]) -> Any:
    from dvc.dependency import DatasetDependency, ParamsDependency

    params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    deps = [dep for dep in stage.deps if dep not in params]
    try:
        values = {_path(root, dep): dep.read_params() for dep in params}
        plain = json.loads(json.dumps(values)) == values
    except (TypeError, ValueError):
        plain = False
    outside = [item for item in [*stage.deps, *stage.outs] if isinstance(item, DatasetDependency) or not _inside(item)]
    return {
        "cmd": stage.cmd,
        "wdir": os.path.relpath(stage.wdir, root),
        "deps": [_path(root, dep) for dep in deps if dep not in outside],
        "params": {_path(root, dep): list(dep.params) for dep in params},
        "values": values if plain else None,
        "outs": [
            {
                "path": _path(root, out),
                "cache": bool(out.use_cache),
                "metric": bool(out.metric),
                "plot": bool(out.plot),
                "persist": bool(out.persist),
                "push": bool(out.can_push),
                "remote": out.remote,
            }
            for out in stage.outs
            if out not in outside
        ],
        "outside": [str(item.def_path) for item in outside],
        "upstream": sorted(names[up] for up in graph.successors(stage)),
        "meta": stage.meta,
        "desc": stage.desc,
        "frozen": bool(stage.frozen),
        "always_changed": bool(stage.always_changed),
        "file": os.path.relpath(stage.path, root),
        "line": places.line(marks[stage.path], ["stages", (stage.name or "").partition("@")[0]]),
    }


def _inside(item: Any) -> bool:
    return item.protocol == "local" and bool(item.is_in_repo)


def _name(root: Path, stage: Any) -> str:
    """What DVC prints for a stage in the root: its name, or the file that it is in and its name."""
    file = Path(os.path.relpath(stage.path, root)).as_posix()
    if not stage.cmd or not stage.name:
        return file
    return str(stage.name) if file == "dvc.yaml" else f"{file}:{stage.name}"


def _path(root: Path, item: Any) -> str:
    return Path(os.path.relpath(item.fs_path, root)).as_posix()
