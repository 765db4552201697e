"""What it costs Airflow to parse the DAG file that renders ``dvc.yaml``, against the same DAGs written out by hand.

Twenty models on two data sets, in a repository of their own. The graph is rendered once before; what is measured is
what the dag-processor does from then on, again and again: ask Git whether anything changed, read the JSON, lay it out,
build the DAGs. Its look at an Airflow Variable, a query to Airflow's database, is answered from the environment here.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import yaml

from benchmarks import measure
from benchmarks.measure import ROOT

MEASURE = """
import json, logging, statistics, sys, time
logging.disable()
from airflow.dag_processing.dagbag import DagBag
files, rounds = sys.argv[2:], int(sys.argv[1])
wall, cpu, counts = {f: [] for f in files}, {f: [] for f in files}, {}
for n in range(rounds + 2):
    for file in files:  # one after the other, so that both meet the same noise
        began, used = time.perf_counter(), time.process_time()
        bag = DagBag(file)
        if n > 1:  # the first ones import
            wall[file].append(time.perf_counter() - began)
            cpu[file].append(time.process_time() - used)
        assert not bag.import_errors, bag.import_errors
        counts[file] = [len(bag.dags), sum(len(dag.tasks) for dag in bag.dags.values())]
heavy = sorted({"dvc", "torch", "pandas", "git", "pygit2"} & set(sys.modules))
told = {"wall": wall, "cpu": cpu, "counts": counts}
print(json.dumps({name: [of[f] for f in files] for name, of in told.items()} | {"heavy": heavy}))
"""
SHOW = """
import json, sys
sys.path.insert(0, sys.argv[1])
from dataclasses import asdict
from dvc_graph import lay_out
from dvc_tip import of_tip
from pathlib import Path
print(json.dumps([asdict(dag) for dag in lay_out(of_tip(Path(sys.argv[2])))], default=sorted))
"""


def make(folder: Path, models: int) -> dict[str, str]:
    """A bare repository with this checkout's stages for so many models; the environment of an Airflow that reads it."""
    work, bare = folder / "work", folder / "repo.git"
    work.mkdir()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    kinds = list(params["models"].values())
    params["models"] = {f"model-{n:02}": kinds[n % len(kinds)] for n in range(models)}
    (work / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for name in ("dvc.yaml", "data.dvc"):
        (work / name).write_bytes((ROOT / name).read_bytes())
    measure.commit(work)
    measure.git(folder, "clone", "--quiet", "--bare", str(work), str(bare))
    return measure.environment(
        AIRFLOW_HOME=str(folder / "airflow"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        NIGHTSHIFT_HOME=str(folder / "home"),
        NIGHTSHIFT_REPO=str(bare),
        NIGHTSHIFT_BRANCH="main",
        PYTHONPATH=os.pathsep.join([str(ROOT / "plugins"), str(ROOT)]),
    )


def by_hand(dags: list[dict[str, Any]]) -> str:
    """The same DAGs as a person would write them, one line a task and one an edge."""
    lines = ["from datetime import timedelta", "from airflow.sdk import DAG, Asset, Param"]
    lines += ["from dvc_operator import EngineOperator"]
    for dag in dags:
        after = [f"Asset(name={name!r}, uri='nightshift://{name}')" for name in dag["after"]]
        lines += [
            f"with DAG({dag['id']!r}, schedule=[{', '.join(after)}] or None, catchup=False, max_active_runs=1,",
            "         params={'rerun': Param(False, type='boolean'), 'reason': Param(None, type=['null', 'string'])},",
            "         default_args={'retries': 1, 'retry_delay': timedelta(seconds=5)}):",
        ]
        names = {task: f"t{n}" for n, task in enumerate(dag["tasks"])}
        body = []
        for task in dag["tasks"].values():
            body += [
                f"{names[task['id']]} = EngineOperator(task_id={task['id']!r}, verb={task['verb']!r}, "
                f"argument={task['argument']!r}, doc_md={task['doc']!r})"
            ]
        for task in dag["tasks"].values():
            body += [f"{names[up]} >> {names[task['id']]}" for up in task["upstream"]]
        lines += [textwrap.indent("\n".join(body), "    ")]
    return "\n".join(lines) + "\n"


def parses(models: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a parse, wall and CPU, rendered and by hand (medians), and what was parsed."""
    with tempfile.TemporaryDirectory(prefix="nightshift-rendering-") as scratch:
        folder = Path(scratch)
        env = make(folder, models)

        def python(code: str, *arguments: str) -> Any:
            command = [sys.executable, "-c", code, *arguments]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            return json.loads(done.stdout.splitlines()[-1])

        dags = python(SHOW, str(ROOT / "plugins"), env["NIGHTSHIFT_HOME"])
        known = {dag["id"]: {"after": dag["after"], "tasks": {}} for dag in dags}
        for dag in dags:
            for task in dag["tasks"].values():
                one = {name: task[name] for name in ("verb", "argument", "hints")}
                known[dag["id"]]["tasks"][task["id"]] = one
        env["AIRFLOW_VAR_NIGHTSHIFT_TASKS"] = json.dumps(known)
        hand = folder / "by_hand.py"
        hand.write_text(by_hand(dags))
        found = python(MEASURE, str(rounds), str(ROOT / "dags" / "dvc_dags.py"), str(hand))
        assert found["counts"][0] == found["counts"][1], found["counts"]
        assert not found["heavy"], found["heavy"]
        return {
            kind: {
                name: 1000 * statistics.median(times) for name, times in zip(("rendered", "by_hand"), both, strict=True)
            }
            for kind, both in (("wall", found["wall"]), ("cpu", found["cpu"]))
        } | {"dags": found["counts"][0][0], "tasks": found["counts"][0][1]}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    found = parses(args.models, args.rounds)
    print(f"{args.models} models: {found['dags']} DAGs, {found['tasks']} tasks; medians of {args.rounds} parses")
    print(measure.load())
    for kind in ("wall", "cpu"):
        rendered, hand = found[kind]["rendered"], found[kind]["by_hand"]
        print(f"{kind:<5} rendered {rendered:6.1f} ms   by hand {hand:6.1f} ms   ratio {rendered / hand:.2f}")


if __name__ == "__main__":
    main()
