"""Starting the child in a process group of its own, hearing it line by line, and leaving nothing of it behind."""

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
SECRET = re.compile("SECRET|TOKEN|PASSWORD", re.IGNORECASE)  # in the name of an environment variable
ENDED = re.compile(r"\x1eended at step (\d+) with status (-?\d+)")


@dataclass(frozen=True)
class Ended:
    """How the child ended: exit status (0 is well), the step that it ended at, and its last lines."""

    status: int
    step: int
    tail: list[str]

    def last_words(self) -> str:
        """The line that says most: the last one that is not DVC telling that a command failed."""
        dvc = ("ERROR: failed to reproduce", "Running stage", "> ", "Having any troubles?")
        own = [line for line in self.tail if line.strip() and not line.startswith(dvc)]
        return own[-1].strip() if own else f"exit status {self.status}"


def claim(group: Path) -> None:
    """Say that this process works in the folder of ``group``."""
    group.write_text(json.dumps({"owner": _who(os.getpid()), "group": None}))


def run_steps(
    steps: Sequence[Sequence[str]], folder: Path, environment: dict[str, str], group: Path, hear: Callable[[str], None]
) -> Ended:
    """Run the steps in ``folder``; each line that they print is heard at once, with *** for secrets of ``environment``.

    Whatever happens to this process, nothing of the group lives on: on a way out with an error (SIGTERM is one, see
    ``__main__``) the group is killed here; when this process is killed outright, the child sees it; when both are, the
    next attempt kills the group that the file ``group`` names (``left_over``).
    """
    # In a file: the days of a whole history are more than an argument may be long.
    listed = group.with_name("steps.json")
    listed.write_text(json.dumps([list(step) for step in steps]))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", str(CHILD), str(reading), str(listed)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
        pass_fds=(reading,),
        start_new_session=True,
    )
    os.close(reading)
    status, step = 1, 0  # of a child that is killed before it says more
    tail: deque[str] = deque(maxlen=30)
    mask = masks(environment)
    try:
        group.write_text(json.dumps({"owner": _who(os.getpid()), "group": _who(process.pid)}))
        for line in process.stdout or ():
            line = line.rstrip("\n")
            if match := ENDED.fullmatch(line):
                step, status = int(match[1]), int(match[2])
                continue
            line = mask(line)
            tail.append(line)
            hear(line)
    finally:
        _kill(process.pid)
        process.wait()
        os.close(writing)
    return Ended(status, step, list(tail))


def masks(environment: Mapping[str, str]) -> Callable[[str], str]:
    """What replaces the values of secret variables, and passwords in URLs such as a proxy's, by ***."""
    values = {value for name, value in environment.items() if SECRET.search(name)}
    values |= {found[1] for value in environment.values() if (found := re.search(r"://[^/@\s]*?:([^/@\s]+)@", value))}
    known = sorted((value for value in values if value), key=len, reverse=True)
    if not known:
        return str
    pattern = re.compile("|".join(map(re.escape, known)))
    return lambda line: pattern.sub("***", line)


def left_over(group: Path) -> bool:
    """Kill what a dead engine's group still runs; False when its engine lives and works."""
    try:
        known = json.loads(group.read_text())
    except (FileNotFoundError, ValueError):
        return False
    if _who(known["owner"]["pid"]) == known["owner"]:
        return False
    group_was = known["group"]
    # A number is not given again while its group lives; a leader that started at another time is somebody else's.
    if group_was and _who(group_was["pid"])["started"] in ("", group_was["started"]):
        _kill(group_was["pid"])
    return True


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def me() -> dict[str, int | str]:
    """This process, so that others can find out whether it lives (``is_gone``)."""
    return {"machine": _machine(), **_who(os.getpid())}


def is_gone(who: dict[str, int | str]) -> bool:
    """Whether a process (``me``) of this machine is dead; False when it is one of another machine: nobody knows."""
    return who["machine"] == _machine() and {"machine": who["machine"], **_who(int(who["pid"]))} != who


def _machine() -> str:
    """What shares its process numbers: one boot of a machine, and one container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _who(pid: int) -> dict[str, int | str]:
    """A process by number and start, because numbers come back; one that is dead and not waited for has no start."""
    try:
        # Linux: fields 3 and 22 (clock ticks since boot), after the name in parentheses; no process is started for it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return {"pid": pid, "started": "" if fields[0] == "Z" else fields[19]}
    except OSError:
        if Path("/proc/self/stat").exists():
            return {"pid": pid, "started": ""}
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return {"pid": pid, "started": shown.stdout.strip()}
