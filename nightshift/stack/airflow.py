"""Airflow on one machine: api-server, scheduler and dag-processor, on SQLite, with a password of its own.

The order is part of it: a scheduler that starts before the API answers fails tasks that are already queued.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import httpx

from nightshift.errors import NightshiftError
from nightshift.preflight import port_is_free
from nightshift.stack import airflow_options, notify, repository
from nightshift.stack.private import write_private
from nightshift.stack.processes import taken_port
from nightshift.stack.runs import Airflow
from nightshift.stack.settings import AIRFLOW, PORT_VARIABLES, Stack, inherited

API, SCHEDULER, DAG_PROCESSOR = "airflow-api-server", "airflow-scheduler", "airflow-dag-processor"
PROCESSES = (API, SCHEDULER, DAG_PROCESSOR)
HEARTBEATS = {
    SCHEDULER: ("scheduler", "latest_scheduler_heartbeat"),
    DAG_PROCESSOR: ("dag_processor", "latest_dag_processor_heartbeat"),
}
START_PATIENCE_S = 180  # a cold start takes 20 s a process on an idle machine, minutes on a crowded one


def command(name: str) -> list[str]:
    started = [sys.executable, "-P", "-m", "airflow", name.removeprefix("airflow-")]
    # Its server of task logs would listen on every address; here the api-server reads the files themselves.
    return [*started, "--skip-serve-logs"] if name == SCHEDULER else started


def environment(stack: Stack, name: str = API) -> dict[str, str]:
    """All that one of Airflow's processes gets; only the scheduler, whose tasks deploy and tell, has their keys."""
    secrets = stack.secrets["airflow"]
    home = stack.home / "airflow"
    own = {
        "core": {
            "executor": "prompt_executor.LocalExecutor",  # of plugins/
            "parallelism": 4,  # as many processes are forked at start
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{stack.airflow_user}:admin",
            "simple_auth_manager_passwords_file": home / "passwords.json",
        },
        "api": {
            "host": "127.0.0.1",
            "port": stack.ports[AIRFLOW],
            "base_url": stack.airflow_url,
            "secret_key": secrets["secret_key"],
        },
        "database": {
            # Who writes waits for whoever writes now. By itself Python waits 5 s, and then a person's request gets a
            # 500: that happens on a busy machine. A client gives up after 60 s.
            "sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}?timeout=30",
        },
        "api_auth": {"jwt_secret": secrets["jwt_secret"]},
        "scheduler": {"scheduler_idle_sleep_time": 0},  # the executor waits, and wakes when a task ends
        "workers": {
            # Airflow may see a task end only at its next heartbeat, and until then has no place for another one.
            "min_heartbeat_interval": 1,
            "max_failed_heartbeats": 15,
        },
    }
    variables = airflow_options.variables(airflow_options.common(stack.root, stack.airflow_url), own)
    ours = stack.environment("worker") | {"NIGHTSHIFT_BRANCH": repository.branch(stack.root)}
    if name != SCHEDULER:
        del ours["NIGHTSHIFT_PERSONAL_SECRET"]
    else:
        deployer = stack.environment("deployer")
        for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            ours[f"NIGHTSHIFT_DEPLOYER_{key}"] = deployer[f"AWS_{key}"]
        for key in ("NIGHTSHIFT_ENDPOINT_KEY", "NIGHTSHIFT_SIGNING_KEY"):
            ours |= {key: deployer[key]} if key in deployer else {}
        ours |= notify.environment(stack.home)
    return inherited() | {"AIRFLOW_HOME": str(home)} | variables | ours


def start(stack: Stack, say: Callable[[str], None]) -> None:
    """Brings Airflow up; what is healthy is left alone.

    Raises:
        NightshiftError: a port is taken, or a process does not come up; names its log and shows its end.
    """
    passwords = json.dumps({stack.airflow_user: stack.airflow_password})
    file = stack.home / "airflow" / "passwords.json"
    if not file.exists() or file.read_text() != passwords:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, passwords)
    if not (_is_current(stack, API) and wait(lambda: answers_us(stack), 30)):
        _stop(stack, API)
        if not port_is_free(stack.ports[AIRFLOW]):
            raise taken_port(stack.ports[AIRFLOW], "Airflow", PORT_VARIABLES[AIRFLOW][0])
        _migrate(stack, say)
        say(f"airflow: api-server starts at {stack.airflow_url}")
        _launch(stack, API)
        _wait(stack, API, lambda: answers_us(stack))
        client = Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)
        client.make_pool("gpu", max(1, gpus()), "As many tasks at once as this machine has GPUs (hint `pool: gpu`).")
    # The first call takes seconds; made here, so that no task waits for it in vain.
    httpx.get(f"{stack.airflow_url}/execution/health", timeout=120, trust_env=False)

    launched = {}
    for name in (SCHEDULER, DAG_PROCESSOR):
        if _is_current(stack, name) and wait(lambda name=name: beats(stack, name), 30):  # type: ignore[misc]
            continue
        _stop(stack, name)
        say(f"airflow: {name.removeprefix('airflow-')} starts")
        launched[name] = datetime.now(UTC)
        _launch(stack, name)
    for name, since in launched.items():
        _wait(stack, name, lambda name=name, since=since: beats(stack, name, since))  # type: ignore[misc]


def gpus() -> int:
    """How many GPUs NVIDIA's driver knows here; 0 without a driver."""
    program = shutil.which("nvidia-smi")
    if not program:
        return 0
    done = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.count("GPU ") if done.returncode == 0 else 0


def answers_us(stack: Stack) -> bool:
    """Whether the Airflow at our port accepts our password."""
    try:
        answer = httpx.post(
            f"{stack.airflow_url}/auth/token",
            json={"username": stack.airflow_user, "password": stack.airflow_password},
            timeout=20,
            trust_env=False,
        )
    except httpx.HTTPError:
        return False
    return answer.status_code == 201


def health(stack: Stack) -> dict[str, Any]:
    """Airflow's own word on its processes; empty when it does not answer."""
    try:
        answer = httpx.get(f"{stack.airflow_url}/api/v2/monitor/health", timeout=20, trust_env=False)
        found: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError):
        return {}
    return found if answer.is_success else {}


def beats(stack: Stack, name: str, since: datetime | None = None) -> bool:
    """Whether scheduler or dag-processor is healthy (by a heartbeat after ``since``)."""
    part, heartbeat = HEARTBEATS[name]
    found = health(stack).get(part) or {}
    if found.get("status") != "healthy":
        return False
    return since is None or datetime.fromisoformat(found[heartbeat]) > since


def _is_current(stack: Stack, name: str) -> bool:
    return stack.processes.is_current(name, command(name), environment(stack, name))


def _launch(stack: Stack, name: str) -> None:
    stack.processes.start(name, command(name), environment(stack, name), stack.root)


def _stop(stack: Stack, name: str) -> None:
    """Ends a process that is not well, with whatever a killed one left behind."""
    stack.processes.stop(name)
    if name == SCHEDULER:
        stack.processes.kill_strays()


def _migrate(stack: Stack, say: Callable[[str], None]) -> None:
    """Makes or upgrades Airflow's database, once per version.

    A database without the stamp was left half-made by a killed start: nothing is in it, it is made anew.
    """
    home = stack.home / "airflow"
    stamp, wanted = home / "migrated", version("apache-airflow-core")
    if stamp.exists() and (home / "airflow.db").exists() and stamp.read_text() == wanted:
        return
    say("airflow: makes its database (about 20 s, once)")
    if not stamp.exists():
        for leftover in home.glob("airflow.db*"):
            leftover.unlink()
    log = stack.processes.log("airflow-db-migrate")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "airflow", "db", "migrate"],
            env=environment(stack),
            cwd=stack.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        tail = stack.processes.tail("airflow-db-migrate")
        raise NightshiftError(f"Airflow's database could not be made:\n{tail}", f"read {log}")
    stamp.write_text(wanted)


def _wait(stack: Stack, name: str, ready: Callable[[], bool]) -> None:
    """Waits for a process; gives up at once when it, or the API that tells how it is, has ended."""
    processes = stack.processes

    def ended() -> list[str]:
        return [needed for needed in (API, name) if processes.running(needed) is None]

    if wait(lambda: bool(ended()) or ready(), START_PATIENCE_S) and not ended():
        return
    name, what = (ended()[0], "ended") if ended() else (name, f"is not healthy after {START_PATIENCE_S} s")
    raise NightshiftError(f"{name} {what}; the end of its log:\n{processes.tail(name)}", f"read {processes.log(name)}")


def wait(condition: Callable[[], bool], timeout_s: float, pause_s: float = 0.3) -> bool:
    """Asks until ``condition`` holds; False when it did not within ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
