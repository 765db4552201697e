"""A team's topology as processes of this machine: PostgreSQL, Redis, S3, Airflow, workers, an endpoint.

Each service is a machine of its own, as far as files go: DAG files and a ``NIGHTSHIFT_HOME`` that no other one uses.
What each process is told comes from ``nightshift.stack.team``, as for Compose.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2
import redis
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from nightshift.releases.signing import TRUSTED, VARIABLE, SigningKey
from nightshift.serving.server import is_taken
from nightshift.stack import team
from nightshift.stack.processes import Processes, free_ports
from nightshift.stack.runs import ENDED, Airflow, Run
from nightshift.stack.s3 import INNER_PORTS, S3Server
from nightshift.stack.settings import inherited
from nightshift.stack.team import Team
from tests.e2e import conftest as e2e
from tests.e2e.conftest import Project

until = partial(e2e.until, patience=600)

# Debian keeps PostgreSQL's programs off the PATH.
PATH = os.pathsep.join([os.environ["PATH"], *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))])
SERVERS = {program: shutil.which(program, path=PATH) for program in ("postgres", "initdb", "redis-server")}
# The same rules as a team's, in seconds instead of minutes, to be watched in a test.
IMPATIENT = {
    team.SCHEDULER: {
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
    },
    team.GPU_WORKER: {"NIGHTSHIFT_CHECKPOINT_SECONDS": "1"},
}


@dataclass
class Topology:
    """The running services. ``project`` is a person's checkout, which no service uses."""

    folder: Path
    project: Project
    postgres: Path  # PostgreSQL refuses root, so its folder belongs to somebody else and lies elsewhere
    notify_url: str = ""
    signing_key: SigningKey = field(default_factory=SigningKey.new)  # the endpoint serves what it signed, nothing else
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("api", "postgres", "redis", "endpoint", "s3", *INNER_PORTS)
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.processes = Processes(self.folder)
        self.repository = self.folder / "repo.git"
        self.team = Team(
            secrets=team.new_secrets(),
            repository=f"file://{self.repository}",
            branch="main",
            public_url=self._url("api"),
            api_url=self._url("api"),
            s3_url=self._url("s3"),
            postgres=f"127.0.0.1:{self.ports['postgres']}",
            redis=f"127.0.0.1:{self.ports['redis']}",
            endpoints=(self._url("endpoint"),),
            notify_url=self.notify_url,
            signing={VARIABLE: self.signing_key.secret},
            trusted={TRUSTED: str(self.signing_key.public)},
            listen="127.0.0.1",
        )
        inner = {name: self.ports[name] for name in INNER_PORTS}
        self.s3 = S3Server(self.folder / "s3", self.ports["s3"], inner, self.team.secrets["s3"])

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    # Machines

    def machine(self, name: str) -> Path:
        """The folder of one machine, with what the image has, made when it is first asked for (or was lost)."""
        checkout = self.folder / "machines" / name
        for part in ("dags", "plugins"):
            if not (checkout / part).exists():
                shutil.copytree(self.project.root / part, checkout / part)
        return checkout

    def environment(self, service: str) -> dict[str, str]:
        told = self.team.environment(service, self.machine(service))
        return inherited() | told | IMPATIENT.get(service, {})

    def start(self, service: str) -> None:
        """One of Airflow's processes, or the endpoint."""
        arguments = ["-m", "airflow", service]
        if service in team.QUEUES:
            # One port for all workers' logs is a machine's each: here they would take it from each other.
            arguments = ["-m", "airflow", "celery", "worker", "--skip-serve-logs", "--queues", team.QUEUES[service]]
            arguments += ["--celery-hostname", f"{service}@%h"]
        if service == team.ENDPOINT:
            arguments = ["-m", "nightshift.cli.main", "serve", "--port", str(self.ports["endpoint"])]
        environment = self.environment(service)
        self.processes.start(service, [sys.executable, "-P", *arguments], environment, self.machine(service))

    def family(self, service: str) -> list[psutil.Process]:
        """A service's process and all that it started."""
        process = psutil.Process(self.processes.running(service))
        return [process, *process.children(recursive=True)]

    def lose(self, service: str) -> None:
        """The machine is gone: every process of it killed at once, and its disk."""
        family = self.family(service)
        # Stopped first: none may see another one die, and tell the api-server.
        for how in (signal.SIGSTOP, signal.SIGKILL):
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(how)
        psutil.wait_procs(family, timeout=10)
        shutil.rmtree(self.machine(service))

    def stop(self, service: str) -> None:
        """The process ends as at a deployment: a worker takes nothing more, and what it does, it ends."""
        assert self.processes.stop(service, patience_s=60)

    # What is not ours

    def start_postgres(self) -> None:
        password = self.postgres / "password"
        password.write_text(self.team.secrets["databases"]["postgres"])
        data, who = self.postgres / "data", []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self.postgres, password):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            who = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        make = [SERVERS["initdb"], "--username=postgres", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        subprocess.run([*who, *make, str(data)], check=True, capture_output=True, cwd=self.postgres)
        options = {"port": self.ports["postgres"], "listen_addresses": "127.0.0.1", "fsync": "off"}
        options["unix_socket_directories"] = ""
        command = [SERVERS["postgres"], "-D", str(data), *(f"--{name}={value}" for name, value in options.items())]
        self.processes.start("postgres", [*who, *command], inherited(), self.postgres)
        until(self._make_databases)

    def _make_databases(self) -> bool:
        try:
            connection = psycopg2.connect(
                host="127.0.0.1",
                port=self.ports["postgres"],
                user="postgres",
                password=self.team.secrets["databases"]["postgres"],
            )
        except psycopg2.OperationalError:
            return False
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        with connection.cursor() as cursor:
            for statement in self.team.sql().splitlines():
                cursor.execute(statement)
        connection.close()
        return True

    def start_redis(self) -> None:
        folder = self.folder / "redis"
        folder.mkdir(exist_ok=True)
        lines = [f"port {self.ports['redis']}", "bind 127.0.0.1", f"requirepass {self.team.secrets['redis']}"]
        (folder / "redis.conf").write_text("\n".join([*lines, "appendonly yes", ""]))
        self.processes.start("redis", [SERVERS["redis-server"], "redis.conf"], inherited(), folder)

    def kill_redis(self, *, forget: bool) -> None:
        """Redis is gone; ``forget``: with all that it held."""
        pid = self.processes.running("redis")
        assert pid
        os.kill(pid, signal.SIGKILL)
        # Its first thread is gone before the last one lets go of the port.
        until(lambda: self.processes.running("redis") is None and not is_taken("127.0.0.1", self.ports["redis"]))
        if forget:
            shutil.rmtree(self.folder / "redis")

    # The whole

    def up(self) -> None:
        """Everything, in the order that works."""
        self.project.git("clone", "--quiet", "--bare", str(self.project.root), str(self.repository))
        self.project.git("remote", "add", "origin", str(self.repository))
        self.start_redis()
        self.s3.start(self.processes)
        self.start_postgres()
        self.start(team.ENDPOINT)
        command = [sys.executable, "-P", "-m", "nightshift.stack.init"]
        self.processes.start(team.INIT, command, self.environment(team.INIT), self.machine(team.INIT))
        until(lambda: self.processes.running(team.INIT) is None)
        assert "users create: done" in (said := self.processes.tail(team.INIT, 60)), said
        self.start(team.API)
        for worker in team.QUEUES:
            self.start(worker)
        until(lambda: self._answers(f"{self._url('api')}/api/v2/monitor/health"))
        until(lambda: self._answers(f"{self._url('api')}/execution/health"))
        self.start(team.SCHEDULER)
        self.start(team.DAG_PROCESSOR)
        until(lambda: len(self.airflow.dags()) >= 2)
        until(self.airflow.scheduler_is_well)

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            return httpx.get(url, timeout=60, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    @cached_property
    def airflow(self) -> Airflow:
        """Airflow, as the person who set it up."""
        return Airflow(self._url("api"), team.USER, self.team.secrets["airflow"]["password"])

    def logs(self, service: str, task: str) -> list[Path]:
        """A task's logs on one machine, oldest first."""
        found = (self.folder / "machines" / service / ".nightshift/airflow/logs").rglob(f"*task_id={task}/*.log")
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def ended(self, run: Run) -> dict[str, dict[str, Any]]:
        """The run's task instances, once it has ended well."""
        state = until(lambda: found if (found := self.airflow.state(run)) in ENDED else None)
        tasks = self.airflow.instances(run)
        assert state == "success", {name: (task["state"], task["try_number"]) for name, task in tasks.items()}
        return tasks

    def checkpoint(self) -> str | None:
        """What tells one named checkpoint in S3 from the next; there is at most one."""
        listed = self.s3.client("admin").list_objects_v2(Bucket="nightshift-work", Prefix="checkpoints/")
        return next((item["ETag"] for item in listed.get("Contents", []) if item["Key"].endswith("last.json")), None)

    def waiting(self, queue: str) -> int:
        """How many messages wait in a queue of the broker; 0 when it does not answer."""
        try:
            with redis.Redis(port=self.ports["redis"], password=self.team.secrets["redis"]) as broker:
                return int(broker.llen(queue))
        except redis.ConnectionError:
            return 0

    def serving(self) -> dict[str, Any]:
        """What the endpoint serves, by model."""
        headers = {"Authorization": f"Bearer {self.team.secrets['endpoint']['key']}"}
        found = httpx.get(f"{self._url('endpoint')}/status", headers=headers, trust_env=False)
        return dict(found.json()["models"])

    def show(self) -> None:
        """The ends of all logs, for who reads of a failure after everything is gone."""
        for name in self.processes.names():
            print(f"\n== {name}\n{self.processes.tail(name, 25)}")
        for log in sorted((self.folder / "machines").rglob("attempt=*.log")):
            lines = log.read_text(errors="replace").splitlines()[-4:]
            print(f"\n== {log.relative_to(self.folder)}", *(line[:600] for line in lines), sep="\n")
