"""Up, down, and what runs: the S3 server, Airflow and the endpoint of one checkout, in the order that works.

``up`` may be called at any time: it starts what is missing, starts again what does not answer or was started with other
settings, and leaves the rest alone. ``down`` ends what this checkout started, and nothing else.
"""

from __future__ import annotations

import configparser
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightshift.errors import NightshiftError
from nightshift.preflight import port_is_free
from nightshift.stack import airflow, endpoint, notify, repository
from nightshift.stack import s3 as s3_server
from nightshift.stack.private import write_private
from nightshift.stack.processes import taken_port
from nightshift.stack.settings import PORT_VARIABLES, S3, Stack

Say = Callable[[str], None]
NAMES = {S3: "the S3 server", endpoint.NAME: "the endpoint", **{name: name for name in airflow.PROCESSES}}


def up(root: Path, say: Say) -> Stack:
    """Brings the stack of the checkout at ``root`` up, and returns it. ``say`` hears a line for each thing started.

    Raises:
        NightshiftError: a port is taken, or something does not start; says which, and where its log is.
    """
    with _alone(root):
        stack = Stack.load(root, os.environ)
        stack.processes.rotate()
        if not stack.processes.running(airflow.SCHEDULER):
            stack.processes.kill_strays()
        repository.make(root, stack.repository)
        _push(root, say)
        stack = _start_s3(stack, say)
        configure_dvc(stack)
        notify.keep(stack.home, os.environ)
        started = endpoint.launch(stack, say)
        airflow.start(stack, say)
        if started:
            endpoint.wait_until_ours(stack)
        return stack


def _push(root: Path, say: Say) -> None:
    """The branch, before Airflow looks for it; a night says again what is in the way."""
    try:
        repository.push(root)
    except NightshiftError as error:
        say(f"nights run the last pushed commit: {error}")


def _start_s3(stack: Stack, say: Say) -> Stack:
    server, processes = stack.s3, stack.processes
    current = processes.is_current(S3, server.command(), server.process_environment()) and server.knows_everyone()
    if current and airflow.wait(server.is_ours, 10):
        return stack
    processes.stop(S3)
    if not port_is_free(stack.ports[S3]):
        raise taken_port(stack.ports[S3], "the S3 server", PORT_VARIABLES[S3][0])
    stack = stack.with_free(s3_server.INNER_PORTS)
    say(f"s3: starts at {stack.s3_url}")
    stack.s3.start(processes, S3)
    return stack


def down(root: Path, say: Say) -> list[str]:
    """Ends this checkout's stack with all its tasks; returns what was ended, in words."""
    with _alone(root):
        return _down(root, say)


def _down(root: Path, say: Say) -> list[str]:
    if not Stack.exists(root):
        return []
    processes = Stack.load(root).processes
    ended: list[str] = []

    def stop(*names: str) -> None:
        with ThreadPoolExecutor(len(names)) as pool:
            for name, was_there in zip(names, pool.map(processes.stop, names), strict=True):
                if was_there:
                    ended.append(NAMES[name])
                    say(f"stopped: {NAMES[name]}")

    stop(airflow.SCHEDULER)  # first, so that no task starts another one
    if count := processes.kill_strays():
        ended.append(f"{count} processes of tasks")
        say(f"stopped: {ended[-1]} (a run that was on goes on at the next up)")
    stop(airflow.DAG_PROCESSOR, airflow.API, endpoint.NAME)
    stop(S3)  # last, because the others write to it
    return ended


def status(root: Path) -> dict[str, Any]:
    """What runs and what serves: ``checkout``, ``services`` (each with ``url``, ``healthy``, ``pids``), ``serving``."""
    if not Stack.exists(root):
        return {"checkout": str(root), "services": {}, "serving": {}}
    stack = Stack.load(root)
    pids = {name: stack.processes.running(name) for name in NAMES}
    says = endpoint.answer(stack) if pids[endpoint.NAME] else {}
    checks: dict[str, tuple[str, bool, list[str]]] = {
        "s3": (stack.s3_url, bool(pids[S3]) and stack.s3.is_ours(), [S3]),
        "airflow": (
            stack.airflow_url,
            all(pids[n] for n in airflow.PROCESSES) and _airflow_is_well(stack),
            [*airflow.PROCESSES],
        ),
        "endpoint": (stack.endpoint_url, says.get("checkout") == str(stack.home), [endpoint.NAME]),
    }
    return {
        "checkout": str(root),
        "services": {
            name: {"url": url, "healthy": healthy, "pids": {part: pids[part] for part in parts}}
            for name, (url, healthy, parts) in checks.items()
        },
        "serving": says.get("models", {}),
    }


def _airflow_is_well(stack: Stack) -> bool:
    return airflow.answers_us(stack) and all(airflow.beats(stack, name) for name in airflow.HEARTBEATS)


def configure_dvc(stack: Stack) -> None:
    """Lets a person's own ``dvc`` reach this stack: endpoint, keys and cache in ``.dvc/config.local`` (mode 0600).

    What else a person wrote there is kept, but for comments.
    """
    path = stack.root / ".dvc" / "config.local"
    config = configparser.RawConfigParser(delimiters=("=",), strict=False)
    config.optionxform = str  # type: ignore[method-assign, assignment]
    if path.exists():
        config.read_string(path.read_text())
    worker = stack.s3.environment("worker")
    wanted = {
        "'remote \"store\"'": {
            "endpointurl": worker["AWS_ENDPOINT_URL"],
            "access_key_id": worker["AWS_ACCESS_KEY_ID"],
            "secret_access_key": worker["AWS_SECRET_ACCESS_KEY"],
            "region": worker["AWS_REGION"],
        },
        # The cache that tasks use too. Never hardlinks: an edit in the workspace would change the cached object.
        "cache": {"dir": "../.nightshift/cache", "type": "reflink,copy"},
    }
    for section, options in wanted.items():
        if not config.has_section(section):
            config.add_section(section)
        for name, value in options.items():
            config.set(section, name, value)
    text = io.StringIO()
    config.write(text)
    if not path.exists() or path.read_text() != text.getvalue():
        write_private(path, text.getvalue())


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One ``up``, ``down`` or ``reset`` of a checkout at a time."""
    home = root / ".nightshift"
    home.mkdir(mode=0o700, exist_ok=True)
    with (home / "stack.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NightshiftError(
                f"Another `nightshift up`, `down` or `reset` is at work in {root}", "wait for it, then type this again"
            ) from None
        yield
