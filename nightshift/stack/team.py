"""A team's Nightshift: which service is told what, from one description of the whole.

Pure: nothing is started, read or written here. Compose gets each service's environment as a file, the tests start the
same services as processes with it. Nobody is told more than its work needs:

=================  =========================================================================================
service            beside Airflow's options
=================  =========================================================================================
postgres, redis    their own passwords
s3                 its inner keys; its identities are in ``s3.identities``
init               Airflow's database, the first user's password, S3 as admin; the repository; the replicas; what
                   signs: it is also a person's hands
api-server         Airflow's database and signing keys; S3 as reader, for its pages
scheduler          the same, and the broker
dag-processor      Airflow's database; reads the repository
events-worker      the broker; the repository; S3 as worker; the deployer's key; the endpoint's replicas and key; the
                   key that signs releases, if there is one; whom the nights are told to
worker, gpu-worker the broker; S3 as worker
endpoint           S3 as endpoint; the digests of the keys of whoever deploys and of Prometheus; whose signatures it
                   trusts; the names it may be asked by; the share of requests that it keeps
prometheus         a key of the endpoint that opens its metrics only
grafana            the first user's password
=================  =========================================================================================

Queues: the tasks that touch the repository or the ledger, or write to people, go to ``events``, a stage to
``default`` or to the queue that its hint names. So a worker that runs a stage's code has no repository and can order
no release, and Celery's workers reach Celery's database, not Airflow's.
"""

from __future__ import annotations

import json
import secrets as random_secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from nightshift.stack import s3
from nightshift.stack.airflow_options import common, variables
from nightshift.stack.private import new_endpoint_key

POSTGRES, REDIS, S3, INIT = "postgres", "redis", "s3", "init"
API, SCHEDULER, DAG_PROCESSOR = "api-server", "scheduler", "dag-processor"
EVENTS_WORKER, WORKER, GPU_WORKER = "events-worker", "worker", "gpu-worker"
ENDPOINT, PROMETHEUS, GRAFANA = "endpoint", "prometheus", "grafana"
SERVICES = (
    *(POSTGRES, REDIS, S3, INIT, API, SCHEDULER, DAG_PROCESSOR),
    *(EVENTS_WORKER, WORKER, GPU_WORKER, ENDPOINT, PROMETHEUS, GRAFANA),
)
QUEUES = {EVENTS_WORKER: "events", WORKER: "default", GPU_WORKER: "gpu"}

USER = "admin"
DATABASES = ("airflow", "celery")  # each with a role of its own, of the same name

# A queued task whose message was lost (a broker that came back empty, a worker killed before it began) is sent again
# after this many seconds, with a fresh token; one that nobody takes for a day is failed.
QUEUED_AGAIN_S = 180
QUEUED_TRIES = 24 * 3600 // QUEUED_AGAIN_S


def new_secrets() -> dict[str, Any]:
    """Random ones, for ``Team.secrets``: ``s3``, ``airflow``, ``databases``, ``redis``, ``endpoint`` and so on."""
    return {
        "s3": s3.new_secrets(),
        "airflow": {name: random_secrets.token_urlsafe(48) for name in ("jwt_secret", "secret_key")}
        | {
            "password": random_secrets.token_urlsafe(12),
            "fernet_key": urlsafe_b64encode(random_secrets.token_bytes(32)).decode(),
        },
        "databases": {role: random_secrets.token_urlsafe(24) for role in ("postgres", *DATABASES)},
        "redis": random_secrets.token_urlsafe(24),
        "endpoint": {"key": new_endpoint_key(), "metrics_key": new_endpoint_key()},
        "grafana": random_secrets.token_urlsafe(12),
        "personal": random_secrets.token_urlsafe(48),
    }


@dataclass(frozen=True)
class Team:
    """The addresses are those by which the services reach each other."""

    secrets: Mapping[str, Any]
    repository: str  # the bare repository of the nights' branch: a URL, or a path on the services that have it
    branch: str
    public_url: str  # Airflow as people reach it
    api_url: str
    s3_url: str
    postgres: str  # host:port
    redis: str  # host:port
    endpoints: tuple[str, ...]  # the replicas' URLs, each of its own: every one must prove a release
    hosts: tuple[str, ...] = ()  # the names by which the replicas are asked, beside loopback's
    sample_rate: str = ""  # of the endpoint's requests, and what is left out of the samples (docs/watching.md)
    sample_leave_out: str = ""
    sample_days: str = ""
    notify_url: str = ""  # whom the nights are told to (docs/told.md), and what is called after each; both secret
    heartbeat_url: str = ""
    signing: dict[str, str] = field(default_factory=dict)  # what whoever deploys signs with, and whom the
    trusted: dict[str, str] = field(default_factory=dict)  # endpoints trust: see ``stack.signing``
    listen: str = "0.0.0.0"  # noqa: S104 - inside a container's network; what is published is Compose's to say

    def environment(self, service: str, checkout: PurePath) -> dict[str, str]:
        """All that ``service`` is told, whose files are at ``checkout``."""
        if service == POSTGRES:
            names = {f"{role.upper()}_PASSWORD": password for role, password in self.secrets["databases"].items()}
            return names | {"POSTGRES_USER": "postgres", "POSTGRES_DB": "postgres"}
        if service == REDIS:
            return {"REDIS_PASSWORD": self.secrets["redis"]}
        if service == S3:
            return {"GOMEMLIMIT": "400MiB", **self.secrets["s3"]["inner"]}
        home = {"NIGHTSHIFT_HOME": str(checkout / ".nightshift")}
        if service == ENDPOINT:
            told = self._s3("endpoint")
            del told["NIGHTSHIFT_WORK"]  # not its business
            for name, key in (("ENDPOINT_KEY", "key"), ("METRICS_KEY", "metrics_key")):
                digest = sha256(self.secrets["endpoint"][key].encode()).hexdigest()
                told[f"NIGHTSHIFT_{name}_SHA256"] = digest
            told["NIGHTSHIFT_ALLOW_HOSTS"] = ",".join(self.hosts)
            sampling = {
                "NIGHTSHIFT_SAMPLE_RATE": self.sample_rate,
                "NIGHTSHIFT_SAMPLE_LEAVE_OUT": self.sample_leave_out,
                "NIGHTSHIFT_SAMPLE_DAYS": self.sample_days,
            }
            return home | told | self.trusted | {name: value for name, value in sampling.items() if value}
        if service == PROMETHEUS:
            return {"NIGHTSHIFT_METRICS_KEY": self.secrets["endpoint"]["metrics_key"]}
        if service == GRAFANA:
            return {
                "GF_SECURITY_ADMIN_USER": USER,
                "GF_SECURITY_ADMIN_PASSWORD": self.secrets["grafana"],
                # It asks nobody outside for anything.
                "GF_ANALYTICS_REPORTING_ENABLED": "false",
                "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
                "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
                "GF_PLUGINS_PREINSTALL_DISABLED": "true",
                "GF_NEWS_NEWS_FEED_ENABLED": "false",
            }
        options, ours = self._airflow(service, checkout), dict[str, str]()
        if service == INIT:
            ours = self._s3("admin") | {"NIGHTSHIFT_AIRFLOW_PASSWORD": self.secrets["airflow"]["password"]}
        if service in (INIT, DAG_PROCESSOR, EVENTS_WORKER):
            ours |= {"NIGHTSHIFT_REPO": self.repository, "NIGHTSHIFT_BRANCH": self.branch}
        if service == DAG_PROCESSOR:
            ours["NIGHTSHIFT_EVENTS_QUEUE"] = QUEUES[EVENTS_WORKER]
        if service == API:
            ours |= self._s3("reader")
            del ours["NIGHTSHIFT_REGISTRY"]
        if service in QUEUES:
            ours |= self._s3("worker") | {"NIGHTSHIFT_PERSONAL_SECRET": self.secrets["personal"]}
        if service == EVENTS_WORKER:
            deployer = self.secrets["s3"]["keys"]["deployer"]
            ours["NIGHTSHIFT_DEPLOYER_ACCESS_KEY_ID"] = deployer["access"]
            ours["NIGHTSHIFT_DEPLOYER_SECRET_ACCESS_KEY"] = deployer["secret"]
            urls = {"NIGHTSHIFT_NOTIFY_URL": self.notify_url, "NIGHTSHIFT_HEARTBEAT_URL": self.heartbeat_url}
            ours |= {name: url for name, url in urls.items() if url}
        if service in (INIT, EVENTS_WORKER):
            ours["NIGHTSHIFT_ENDPOINTS"] = ",".join(self.endpoints)
            ours["NIGHTSHIFT_ENDPOINT_KEY"] = self.secrets["endpoint"]["key"]
            ours |= self.signing
        return {"AIRFLOW_HOME": str(checkout / ".nightshift" / "airflow")} | options | home | ours

    def _s3(self, identity: str) -> dict[str, str]:
        return s3.environment(self.s3_url, self.secrets["s3"]["keys"][identity])

    def _airflow(self, service: str, checkout: PurePath) -> dict[str, str]:
        """Airflow's options for one of its processes."""
        # The log server of a worker and the api-server, which asks it, share this key; it opens no session.
        options: list[Mapping[str, Mapping[str, Any]]] = [
            common(checkout, self.api_url),
            {
                "core": {"executor": "CeleryExecutor"},
                "api": {"base_url": self.public_url, "secret_key": self.secrets["airflow"]["secret_key"]},
            },
        ]
        if service in (SCHEDULER, *QUEUES):
            options.append(self._celery())
        if service not in QUEUES:
            options.append(
                {
                    "core": {
                        "auth_manager": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
                        # Variables are kept encrypted; each process would invent a key of its own.
                        "fernet_key": self.secrets["airflow"]["fernet_key"],
                    },
                    "database": {"sql_alchemy_conn": self._database("airflow")},
                    "api": {"host": self.listen, "port": urlsplit(self.api_url).port},
                    "api_auth": {"jwt_secret": self.secrets["airflow"]["jwt_secret"]},
                    "scheduler": {
                        "task_queued_timeout": QUEUED_AGAIN_S,
                        "task_queued_timeout_check_interval": 15,
                        "num_stuck_in_queued_retries": QUEUED_TRIES,
                    },
                }
            )
        return variables(*options)

    def _celery(self) -> dict[str, dict[str, Any]]:
        return {
            "celery": {
                "broker_url": f"redis://:{self.secrets['redis']}@{self.redis}/0",
                "result_backend": f"db+{self._database('celery')}",
                "worker_prefetch_multiplier": 1,
                "worker_concurrency": 2,
                # While the broker is away a message is tried for five minutes, two seconds at a time; with Celery's
                # own policy the third refused connection, within a second, would fail the task.
                "operation_timeout": 2,
                "task_publish_max_retries": 150,
                "extra_celery_config": json.dumps(
                    {"task_publish_retry_policy": {"max_retries": None}, "broker_connection_max_retries": None}
                ),
            },
            # The broker hands a message that is not acknowledged by then to another worker. A message is acknowledged
            # when its task ends, so this must be longer than any task; what a dead worker held, the scheduler sends
            # again long before.
            "celery_broker_transport_options": {"visibility_timeout": 7 * 24 * 3600},
        }

    def _database(self, name: str) -> str:
        return f"postgresql+psycopg2://{name}:{self.secrets['databases'][name]}@{self.postgres}/{name}"

    def sql(self) -> str:
        """What makes the databases and their roles, once, as PostgreSQL's superuser."""
        return "".join(
            f"CREATE ROLE {name} LOGIN PASSWORD '{self.secrets['databases'][name]}';\n"
            f"CREATE DATABASE {name} OWNER {name};\n"
            f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC;\n"
            for name in DATABASES
        )


def env_file(environment: Mapping[str, str]) -> str:
    """The lines of an ``env_file`` for Compose, which takes what is in single quotes as it stands.

    Raises:
        ValueError: a value has a quote or a line break; names the variable.
    """
    for name, value in environment.items():
        if "'" in value or "\n" in value:
            raise ValueError(f"{name} has a quote or a line break, which an env file cannot hold")
    return "".join(f"{name}='{value}'\n" for name, value in sorted(environment.items()))
