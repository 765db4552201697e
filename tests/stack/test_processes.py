"""Child processes: found again, stopped with their families, and never confused with somebody else's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nightshift.preflight import port_is_free
from nightshift.stack.processes import Processes, free_ports, taken_port

# A parent with a child in a session of its own, as a task's stage is.
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, env={})
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path / "checkout" / ".nightshift")
    yield found
    for name in found.names():
        found.stop(name, patience_s=1)


def start(processes: Processes, name: str, code: str = "import time; time.sleep(600)") -> int:
    processes.home.mkdir(parents=True, exist_ok=True)
    return processes.start(name, [sys.executable, "-c", code], {}, processes.home.parent)


def gone(pid: int) -> bool:
    """Whether a process ends within five seconds (a zombie counts)."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def printed(processes: Processes, name: str) -> str:
    for _ in range(100):
        if text := processes.tail(name):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{name} printed nothing")


def test_a_process_is_found_again_by_another_command(processes: Processes) -> None:
    pid = start(processes, "one")
    assert Processes(processes.home).running("one") == pid


def test_an_id_that_the_system_gave_to_another_process_is_not_ours_and_is_not_stopped(processes: Processes) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        start(processes, "one")
        processes.stop("one")
        entry = {"pid": stranger.pid, "started": "123456", "settings": ""}
        (processes.home / "run" / "one.json").write_text(json.dumps(entry))
        assert processes.running("one") is None
        assert not processes.stop("one")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stopping_ends_the_descendants_also_those_in_sessions_of_their_own(processes: Processes) -> None:
    pid = start(processes, "parent", FAMILY)
    child = int(printed(processes, "parent"))
    assert processes.stop("parent", patience_s=1)
    assert gone(pid)
    assert gone(child)
    assert processes.running("parent") is None


def test_a_process_that_ignores_the_term_signal_is_killed(processes: Processes) -> None:
    pid = start(
        processes,
        "deaf",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)",
    )
    printed(processes, "deaf")
    assert processes.stop("deaf", patience_s=0.5)
    assert gone(pid)


def test_what_a_killed_process_left_behind_is_found_and_the_living_are_spared(processes: Processes) -> None:
    code = FAMILY.replace(", start_new_session=True, env={}", "")
    start(processes, "killed", code)
    orphan = int(printed(processes, "killed"))
    well = start(processes, "well", code)
    child_of_well = int(printed(processes, "well"))
    os.kill(processes.running("killed") or 0, signal.SIGKILL)
    assert gone(orphan) is False
    assert {process.pid for process in processes.strays()} == {orphan}
    assert processes.kill_strays() == 1
    assert gone(orphan)
    assert processes.running("well") == well
    assert psutil.pid_exists(child_of_well)


def test_a_task_left_in_a_workspace_is_a_stray_and_one_elsewhere_is_not(processes: Processes) -> None:
    work = processes.home / "work" / "run-1"
    work.mkdir(parents=True)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    inside = subprocess.Popen(sleep, cwd=work, start_new_session=True)
    outside = subprocess.Popen(sleep, cwd=processes.home.parent, start_new_session=True)
    try:
        assert [process.pid for process in processes.strays()] == [inside.pid]
    finally:
        for child in (inside, outside):
            child.kill()
            child.wait()


def test_a_process_started_with_other_settings_is_not_current(processes: Processes) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    processes.home.mkdir(parents=True)
    processes.start("one", command, {"NIGHTSHIFT_WORK": "a", "LANG": "C"}, processes.home)
    assert processes.is_current("one", command, {"NIGHTSHIFT_WORK": "a", "LANG": "de"})
    assert not processes.is_current("one", command, {"NIGHTSHIFT_WORK": "b", "LANG": "C"})


def test_a_child_gets_only_the_environment_that_it_is_given(processes: Processes, monkeypatch) -> None:
    monkeypatch.setenv("A_PERSONS_TOKEN", "secret")
    start(processes, "one", "import os; print(sorted(os.environ), flush=True)")
    assert printed(processes, "one").startswith("['LC_CTYPE', 'NIGHTSHIFT_STACK']")


def test_a_log_that_grew_large_is_moved_aside_while_the_process_writes_on(processes: Processes) -> None:
    start(processes, "one", "import time\nfor i in range(1000): print(i, flush=True); time.sleep(0.05)")
    printed(processes, "one")
    processes.rotate(largest=0)
    old = processes.log("one").with_suffix(".log.1").read_text()
    assert old.startswith("0\n")
    new = printed(processes, "one")
    assert int(new.splitlines()[0]) > 0


def test_a_taken_port_is_named_with_its_holder_and_the_variable_that_moves_it() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert not port_is_free(port)
        error = taken_port(port, "the endpoint", "NIGHTSHIFT_ENDPOINT_PORT")
    assert f"Port {port}, meant for the endpoint, is taken by process {os.getpid()}" in error.message
    assert str(Path.cwd()) in error.message
    assert "NIGHTSHIFT_ENDPOINT_PORT=<port> nightshift up" in error.next_step


def test_free_ports_are_different_and_can_be_listened_on() -> None:
    ports = free_ports(12)
    assert len(set(ports)) == 12
    assert all(port_is_free(port) for port in ports)
    assert not set(free_ports(12, taken=ports)) & set(ports)
