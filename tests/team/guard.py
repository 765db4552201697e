"""Ends all that a test's topology started: called at the test's end, and by a process that outlives a killed pytest.

``python -m tests.team.guard HOME FOLDER…`` waits for the end of its standard input, then ends the processes of ``HOME``
and removes the folders.
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

import psutil

from nightshift.stack.processes import Processes, kill


def end(home: Path, *folders: Path) -> None:
    """All of ``home`` at once, but PostgreSQL last: it gives its shared memory back when it may end by itself."""
    processes = Processes(home)
    running = {name: pid for name in processes.names() if (pid := processes.running(name))}
    postgres = running.pop("postgres", None)
    with contextlib.suppress(psutil.NoSuchProcess):
        kill([found for pid in running.values() for found in _family(pid)])
    processes.kill_strays()
    if postgres:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            os.kill(postgres, signal.SIGINT)
            psutil.Process(postgres).wait(10)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


if __name__ == "__main__":
    sys.stdin.read()
    end(*map(Path, sys.argv[1:]))
