"""What all benchmarks share: a checkout to measure in, wall and CPU seconds of a command, and how rounds are told."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightshift import NO_TELEMETRY

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and seconds of CPU of a command with all that it waited for."""

    wall: float
    cpu: float


def environment(**more: str) -> dict[str, str]:
    """This shell's, without settings of another stack, and with this Python's commands first."""
    foreign = ("NIGHTSHIFT_", "AWS_", "AIRFLOW_", "GIT_", "DVC_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # each start would be 2.5 times as dear
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        **NO_TELEMETRY,
        **more,
    }


def run(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Cost:
    """Run a command; its output is shown when it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(
            f"{' '.join(command)[:200]} exited with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        )
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def git(folder: Path, *arguments: str) -> None:
    """Git, as somebody."""
    who = ["-c", "user.name=A Person", "-c", "user.email=person@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, env=environment(), check=True, capture_output=True)


def copy(folder: Path, *leave_out: str) -> None:
    """This checkout's files, as they are now, into an empty folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(leave_out):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def commit(folder: Path) -> None:
    """A first commit of all that is there."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "start")


def told(name: str, costs: Iterable[Cost]) -> str:
    """One line: least and middle of the rounds."""
    costs = list(costs)
    walls, cpus = [cost.wall for cost in costs], [cost.cpu for cost in costs]
    return (
        f"{name:<44} wall {min(walls):7.2f} min {statistics.median(walls):7.2f} median"
        f"   CPU {min(cpus):7.2f} min {statistics.median(cpus):7.2f} median   ({len(costs)} rounds)"
    )


def load() -> str:
    """How busy the machine is, to be said beside every figure."""
    one, five, fifteen = os.getloadavg()
    return f"{os.cpu_count()} cores, load {one:.1f} {five:.1f} {fifteen:.1f} at {time.strftime('%Y-%m-%d %H:%M')}"
