"""All that is read through DVC's Python side: the resolved graph of a project, as plain JSON.

DVC itself resolves templates, ``foreach``, ``matrix``, ``vars`` and the edges; there is no second resolver. The data
and dvc.lock are not needed. Everything else that the engine wants of DVC goes through its command line (``child.py``).
"""

import json
import os
from pathlib import Path
from typing import Any

from nightshift.errors import NightshiftError

FORMAT = 1


def read(root: Path) -> dict[str, Any]:
    """The graph of the project in ``root``.

    Returns:
        ``stages``: name to cmd, wdir, deps, params (file to keys), values (file to key to value), outs, upstream,
        meta, desc, frozen, always_changed, in the order in which ``dvc repro`` runs them; ``data``: the outputs of
        .dvc files, and those of data sets that have no entry there yet; ``elsewhere``: stages outside the root's
        dvc.yaml, which nights do not run. Paths are relative to the root.

    Raises:
        NightshiftError: DVC cannot read the project; its own words name file and line.
    """
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    try:
        with Repo(str(root)) as repo:
            index = repo.index
            index.check_graph()
            pipeline = str(Path(repo.root_dir) / "dvc.yaml")
            mine = [stage for stage in index.stages if stage.cmd and str(stage.path) == pipeline]
            ordered = [stage for stage in plan_repro(get_active_graph(index.graph), mine) if stage in set(mine)]
            stages = {stage.name: _stage(repo.root_dir, index.graph, stage) for stage in ordered}
            data = {_path(repo.root_dir, out) for stage in index.stages if not stage.cmd for out in stage.outs}
            return {
                "format": FORMAT,
                "stages": stages,
                "data": sorted(data | _new_data(Path(repo.root_dir), stages, data)),
                "elsewhere": sorted(s.addressing for s in index.stages if s.cmd and str(s.path) != pipeline),
            }
    except DvcException as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise NightshiftError(f"DVC cannot read the graph: {error}{cause}", "mend dvc.yaml") from error


def _new_data(root: Path, stages: dict[str, Any], data: set[str]) -> set[str]:
    """What stages read under ``data/`` that is nowhere yet: ingest writes the first entry of a new data set."""
    made = {out["path"] for stage in stages.values() for out in stage["outs"]}
    read = {path for stage in stages.values() for path in stage["deps"] if path.startswith("data/")}
    return {path for path in read - made - data if not (root / path).exists()}


def _stage(root: str, graph: Any, stage: Any) -> dict[str, Any]:
    from dvc.dependency import ParamsDependency

    params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    values = {_path(root, dep): dep.read_params() for dep in params}
    try:
        plain = json.loads(json.dumps(values)) == values
    except (TypeError, ValueError):
        plain = False
    return {
        "cmd": stage.cmd,
        "wdir": os.path.relpath(stage.wdir, root),
        "deps": [_path(root, dep) for dep in stage.deps if dep not in params],
        "params": {_path(root, dep): list(dep.params) for dep in params},
        "values": values if plain else None,
        "outs": [
            {
                "path": _path(root, out),
                "cache": bool(out.use_cache),
                "metric": bool(out.metric),
                "plot": bool(out.plot),
                "persist": bool(out.persist),
            }
            for out in stage.outs
        ],
        "upstream": sorted(up.name for up in graph.successors(stage) if up.cmd and up.name),
        "meta": stage.meta,
        "desc": stage.desc,
        "frozen": bool(stage.frozen),
        "always_changed": bool(stage.always_changed),
    }


def _path(root: str, item: Any) -> str:
    return Path(os.path.relpath(item.fs_path, root)).as_posix()
