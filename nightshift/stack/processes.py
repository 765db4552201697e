"""The child processes of one stack: started in sessions of their own, found again later, stopped and nobody else's.

A process is remembered in ``<home>/run/<name>.json`` by its id **and its start time**: an id that the system gave to
another process since is never taken for ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nightshift.errors import NightshiftError
from nightshift.preflight import port_is_free

MARK = "NIGHTSHIFT_STACK"  # in the environment of every process of a stack: the folder that it belongs to
SETTINGS = ("NIGHTSHIFT_", "AIRFLOW_", "AWS_", "WEED_")


@dataclass(frozen=True)
class Processes:
    """The processes whose pid files and logs live below ``home`` (folders ``run`` and ``logs``)."""

    home: Path

    def log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _pid_file(self, name: str) -> Path:
        return self.home / "run" / f"{name}.json"

    def names(self) -> list[str]:
        """Every process ever started here whose pid file is still there, running or not."""
        return sorted(path.stem for path in (self.home / "run").glob("*.json"))

    def start(self, name: str, command: list[str], environment: Mapping[str, str], cwd: Path) -> int:
        """Starts ``command`` as ``name``, its output appended to its log; returns the process id.

        ``environment`` is all that the child gets. The session is its own, so closing the terminal does not end it.
        """
        self._pid_file(name).parent.mkdir(parents=True, exist_ok=True)
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        environment = {**environment, MARK: str(self.home)}
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )
        started = start_time(child.pid)
        # A child that dies at once leaves no start time: its waiter finds it gone and shows the log.
        if started is not None:
            _write(self._pid_file(name), pid=child.pid, started=started, settings=fingerprint(command, environment))
        return child.pid

    def running(self, name: str) -> int | None:
        """The process id of ``name``, None when it does not run (any more)."""
        entry = _read(self._pid_file(name))
        return entry["pid"] if entry and start_time(entry["pid"]) == entry["started"] else None

    def is_current(self, name: str, command: list[str], environment: Mapping[str, str]) -> bool:
        """Whether ``name`` runs and was started with these settings."""
        entry = _read(self._pid_file(name)) or {}
        return self.running(name) is not None and entry.get("settings") == fingerprint(command, environment)

    def stop(self, name: str, patience_s: float = 10.0) -> bool:
        """Ends ``name`` and all its descendants; True when there was something to end.

        SIGTERM first; what is still there after ``patience_s`` seconds is killed, in whichever session it hid.
        """
        pid = self.running(name)
        if pid is not None:
            stop_tree(pid, patience_s)
        else:
            kill(self._orphans(name))
        self._pid_file(name).unlink(missing_ok=True)
        return pid is not None

    def _orphans(self, name: str) -> list[psutil.Process]:
        """What a process that was killed left behind in its session.

        Its id is not given again while the session lives, unless it is already somebody else's: then it has a holder.
        """
        entry = _read(self._pid_file(name))
        holder = entry and start_time(entry["pid"], zombie=True)
        if entry is None or self.running(name) or holder not in (None, entry["started"]):
            return []
        return [
            process
            for process in psutil.process_iter()
            if _is(
                lambda p: os.getsid(p.pid) == entry["pid"] and Path(p.cwd()).is_relative_to(self.home.parent), process
            )
        ]

    def strays(self) -> list[psutil.Process]:
        """What the stack started and no running process of it leads to any more.

        They are left in the session of a killed one, carry the stack's mark, or work in its workspaces without a
        terminal: a person's shell is never among them.
        """
        known = {os.getpid()}
        for pid in filter(None, map(self.running, self.names())):
            with contextlib.suppress(psutil.NoSuchProcess):
                known |= {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}

        def ours(process: psutil.Process) -> bool:
            if process.pid in known or process.terminal() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            marked = process.environ().get(MARK) == str(self.home)
            return marked or Path(process.cwd()).is_relative_to(self.home / "work")

        found = [process for process in psutil.process_iter() if _is(ours, process)]
        return found + [orphan for name in self.names() for orphan in self._orphans(name) if orphan not in found]

    def kill_strays(self) -> int:
        """Kills the strays; returns how many there were."""
        found = self.strays()
        kill(found)
        return len(found)

    def rotate(self, largest: int = 20_000_000) -> None:
        """Moves what large logs hold to ``<name>.log.1``; the processes go on writing, since they append."""
        for path in (self.home / "logs").glob("*.log"):
            if path.stat().st_size > largest:
                shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of the log of ``name``."""
        path = self.log(name)
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 20_000))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def _is(question: Callable[[psutil.Process], bool], process: psutil.Process) -> bool:
    """The answer; no for a process that is gone or not to be looked into."""
    try:
        return question(process)
    except (psutil.Error, OSError):
        return False


def _write(path: Path, **entry: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(entry))
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        entry = json.loads(path.read_text())
        return {"pid": int(entry["pid"]), "started": str(entry["started"]), "settings": entry.get("settings")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fingerprint(command: list[str], environment: Mapping[str, str]) -> str:
    """A digest of the settings that a process was started with; the shell's own variables do not count."""
    settings = {name: value for name, value in environment.items() if name.startswith(SETTINGS) and name != MARK}
    return hashlib.sha256(json.dumps([command, settings], sort_keys=True).encode()).hexdigest()


def start_time(pid: int, *, zombie: bool = False) -> str | None:
    """When process ``pid`` started, as text to compare; None when it is gone (or a zombie, unless asked for)."""
    try:
        if not zombie and psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():  # in ticks since boot: a corrected clock does not change it, as it changes psutil's
            return stat.read_text().rpartition(")")[2].split()[19]
        return str(psutil.Process(pid).create_time())
    except (psutil.Error, OSError):
        return None


def stop_tree(pid: int, patience_s: float = 10.0) -> None:
    """Ends a process with all its descendants: SIGTERM to it, SIGKILL to what is left after ``patience_s`` seconds."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
        root.terminate()
    except psutil.NoSuchProcess:
        return
    deadline = time.monotonic() + patience_s
    while psutil.wait_procs([root], timeout=0.2)[1] and time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += [child for child in root.children(recursive=True) if child not in family]
    kill(family)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # its session's group: orphans that no parent leads to


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kills each and waits until it is gone (psutil refuses when an id belongs to another process now)."""
    left = list(processes)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def free_ports(count: int, taken: Iterable[int] = ()) -> list[int]:
    """``count`` ports of loopback that nobody listens on now, outside the range that outgoing connections use."""
    taken, found = set(taken), list[int]()
    candidates = random.SystemRandom().sample(range(22_000, 32_000), 2_000)
    for port in candidates:
        if len(found) == count:
            break
        # SeaweedFS takes a port's twin 10,000 below for granted, so that one is free too.
        if port not in taken and port_is_free(port) and port_is_free(port - 10_000):
            found.append(port)
    return found


def port_holder(port: int) -> str:
    """Who listens on ``port``, in words; empty when the system does not say (another user's process)."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {connection.pid}: {' '.join(process.cmdline())[:100]} (in {process.cwd()})"
    except psutil.Error:
        pass
    return ""


def taken_port(port: int, what: str, variable: str) -> NightshiftError:
    """The error for a port that somebody else holds: names it, the holder if known, and the variable that moves it."""
    holder = port_holder(port) or "a process that this user may not see"
    return NightshiftError(
        f"Port {port}, meant for {what}, is taken by {holder}",
        f"stop that (in another checkout: make down), or choose another port: {variable}=<port> nightshift up",
    )
