"""``python -m benchmarks.orchestration [PART …]``: what a night costs beside the work that it does.

Eight trivial stages of two data sets and two models: as commands of bare Python, with bare ``dvc repro``, and as a
night through Airflow, S3 and Git, each round after an edit that changes all eight; then nights in which nothing
changed. Part ``four_dags`` has a DAG per data set and model, ``one_dag`` all in one, as a project gets it whose stages
name none. And then the real project (``nothing_new``): two models on two data sets, after their first night.
"""

import os
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks import measure
from benchmarks.measure import ROOT, Cost
from nightshift.cli.follow import Followed, follow
from nightshift.cli.night import wait_for_dags
from nightshift.engine.rules import DEFAULT_DAG
from nightshift.stack import lifecycle, repository
from nightshift.stack.processes import free_ports
from nightshift.stack.runs import Airflow
from nightshift.stack.settings import Stack

ROUNDS = 3
STAGES = [(stage, key) for stage, keys in (("validate", "ab"), ("prepare", "ab")) for key in keys]
STAGES += [(stage, f"m{number}") for stage in ("train", "evaluate") for number in (1, 2)]


def trivial(folder: Path, hinted: bool) -> Path:
    """The project of the engine's tests in a checkout; its stages name their DAGs or not, and nothing ever lands."""
    root = folder / "trivial"
    measure.copy(root, "tests/", "docs/", "benchmarks/", "pipelines/", "champions/", "dvc.yaml", "params.yaml", "data.")
    project = ROOT / "tests" / "engine" / "project"
    for file in (file for file in project.rglob("*") if file.is_file() and "__pycache__" not in file.parts):
        (root / file.relative_to(project)).parent.mkdir(parents=True, exist_ok=True)
        (root / file.relative_to(project)).write_bytes(file.read_bytes())
    if not hinted:
        lines = (root / "dvc.yaml").read_text().splitlines(keepends=True)
        (root / "dvc.yaml").write_text("".join(line for line in lines if not line.lstrip().startswith("meta:")))
    measure.commit(root)
    return root


def edit(root: Path, round_: int) -> None:
    """A line in the code of every stage."""
    for stage in {stage for stage, _ in STAGES}:
        with (root / "pipelines" / f"{stage}.py").open("a") as code:
            code.write(f"# round {round_}\n")
    measure.git(root, "commit", "--quiet", "-am", f"round {round_}")


def python(root: Path) -> Cost:
    """The stages' commands, one after the other."""
    costs = [
        measure.run([sys.executable, "-m", f"pipelines.{stage}", key], root, measure.environment())
        for stage, key in STAGES
    ]
    return Cost(sum(cost.wall for cost in costs), sum(cost.cpu for cost in costs))


class Night:
    """Nights of one checkout whose stack is up; keeps what each task took."""

    def __init__(self, root: Path):
        self.stack = lifecycle.up(root, lambda line: print(f"  {line}", file=sys.stderr))
        self.airflow = Airflow(self.stack.airflow_url, self.stack.airflow_user, self.stack.airflow_password)
        self.parts: list[dict[str, float]] = []
        self.waits: list[float] = []
        self.works: list[float] = []

    def run(self) -> Cost:
        """As ``nightshift night`` does, without its summary: push, trigger, follow to the end, merge."""
        before, start = self._cpu(), time.perf_counter()
        wait_for_dags(self.airflow, repository.push(self.stack.root), self.stack)
        first = [dag for dag in sorted(self.airflow.dags()) if dag.startswith("ingest_") or dag == DEFAULT_DAG]
        runs = [self.airflow.trigger(dag, {}) for dag in first]
        followed = follow(self.airflow, runs, Console(quiet=True))
        repository.merge(self.stack.root)
        wall = time.perf_counter() - start
        if failed := [one.run for one in followed if one.state != "success"]:
            sys.exit(f"failed: {failed}")
        for one in followed:
            self._took(one)
        spent = {name: cpu - before[name] for name, cpu in self._cpu().items()}
        self.parts.append(spent)
        return Cost(wall, sum(spent.values()))

    def _took(self, one: Followed) -> None:
        """Of each task: how long it ran, and how long after the one before it had ended it began."""
        moments = sorted(
            (
                datetime.fromisoformat(task["start_date"]).timestamp(),
                datetime.fromisoformat(task["end_date"]).timestamp(),
            )
            for task in self.airflow.instances(one.run).values()
        )
        for number, (start, end) in enumerate(moments):
            self.works.append(end - start)
            if earlier := [other for _, other in moments[:number] if other <= start]:
                self.waits.append(start - max(earlier))

    def _cpu(self) -> dict[str, float]:
        """CPU seconds so far of each part of the stack, with all its processes, ended ones too."""
        return {name: _tree(pid) for name in lifecycle.NAMES if (pid := self.stack.processes.running(name))}

    def tell(self) -> None:
        """Where the time went, over all nights since the last time."""
        print(
            f"  a task: {statistics.median(self.works):.2f} s in it, {statistics.median(self.waits):.2f} s between the "
            f"one before and it (medians of {len(self.works)})"
        )
        parts = {name: statistics.median(part[name] for part in self.parts) for name in self.parts[0]}
        print("  CPU s of a night: " + ", ".join(f"{name} {cpu:.1f}" for name, cpu in parts.items()))
        self.parts, self.waits, self.works = [], [], []


def _tree(pid: int) -> float:
    root = psutil.Process(pid)
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and those of children that have ended
        except psutil.NoSuchProcess:
            continue
    return total


def four_dags(folder: Path) -> None:
    """The eight trivial stages where they name their DAGs: one per data set and per model."""
    changed_stages(folder, hinted=True)


def one_dag(folder: Path) -> None:
    """The same where none names a DAG."""
    changed_stages(folder, hinted=False)


def changed_stages(folder: Path, hinted: bool) -> None:
    """The eight trivial stages in three ways, in turns; then without a change."""
    root = trivial(folder, hinted)
    alone = folder / "alone"
    measure.git(folder, "clone", "--quiet", str(root), str(alone))
    dvc = measure.environment(DVC_SITE_CACHE_DIR=str(folder / "site"))
    night = Night(root)
    try:
        measure.run(["dvc", "pull", "--quiet", "data.dvc"], root, dvc)
        for name in ("a", "b"):
            for empty in (alone / "data" / name, alone / "data" / "profiles" / name):
                empty.mkdir(parents=True)
        night.run()  # the first one also makes what every later one finds
        night.parts, night.waits, night.works = [], [], []
        costs: dict[str, list[Cost]] = {"bare Python": [], "bare dvc repro": [], "a night": []}
        for round_ in range(ROUNDS):
            edit(root, round_)
            measure.git(alone, "pull", "--quiet", "--ff-only", str(root), "main")
            costs["bare dvc repro"].append(measure.run(["dvc", "repro"], alone, dvc))
            measure.git(alone, "checkout", "--quiet", ".")
            costs["bare Python"].append(python(alone))
            costs["a night"].append(night.run())
        for name, found in costs.items():
            print(measure.told(f"{name}, {len(STAGES)} changed stages", found))
        over = [(n.wall - d.wall) / len(STAGES) for n, d in zip(costs["a night"], costs["bare dvc repro"], strict=True)]
        print(
            f"  over bare dvc repro, per changed stage: {min(over):.2f} s min, {statistics.median(over):.2f} s median"
        )
        night.tell()
        print(measure.told("a night, nothing changed", [night.run() for _ in range(ROUNDS)]))
        night.tell()
    finally:
        lifecycle.down(root, lambda _: None)


def nothing_new(folder: Path) -> None:
    """The real project, as a person types it: its first night (not counted), then nights with nothing new."""
    root = folder / "real"
    measure.copy(root, "tests/", "docs/", "benchmarks/")
    measure.commit(root)
    env = measure.environment(**{name: os.environ[name] for name in os.environ if name.startswith("NIGHTSHIFT_")})
    try:
        first = measure.run(["nightshift", "night"], root, env)
        print(f"the real project's first night, with the start of the stack: {first.wall:.0f} s")
        stack = Stack.load(root)
        costs = []
        for _ in range(ROUNDS):
            pids = [pid for name in lifecycle.NAMES if (pid := stack.processes.running(name))]
            before = sum(_tree(pid) for pid in pids)
            cost = measure.run(["nightshift", "night", "--no-land"], root, env)
            costs.append(Cost(cost.wall, cost.cpu + sum(_tree(pid) for pid in pids) - before))
        print(measure.told("the real project, nothing new", costs))
    finally:
        lifecycle.down(root, lambda _: None)


PARTS = {part.__name__: part for part in (four_dags, one_dag, nothing_new)}


def main() -> None:
    """Print the parts that are named, or all; about fifteen minutes."""
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := sorted(set(wanted) - set(PARTS)):
        sys.exit(f"unknown: {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    for name, port in zip(("AIRFLOW", "S3", "ENDPOINT", "GRPC"), free_ports(4), strict=True):
        os.environ[f"NIGHTSHIFT_{name}_PORT"] = str(port)
    for part in wanted:
        print(f"{part}: {measure.load()}")
        with tempfile.TemporaryDirectory(prefix="nightshift-orchestration-") as scratch:
            PARTS[part](Path(scratch))
    print(measure.load())


if __name__ == "__main__":
    main()
