"""What each service of a team is told, and above all what it is not."""

import json
import shlex
from pathlib import Path, PurePosixPath

import pytest

from nightshift.serving.keys import digest
from nightshift.stack import s3, team
from nightshift.stack.airflow import PROCESSES, SCHEDULER, environment
from nightshift.stack.settings import Stack
from nightshift.stack.team import SERVICES, Team

CHECKOUT = PurePosixPath("/opt/nightshift")


@pytest.fixture(scope="module")
def made() -> Team:
    return Team(
        secrets=team.new_secrets(),
        repository="/srv/repo.git",
        branch="main",
        public_url="http://127.0.0.1:8080",
        api_url="http://api-server:8080",
        s3_url="http://s3:8333",
        postgres="postgres:5432",
        redis="redis:6379",
        endpoints=("http://endpoint-1:8000", "http://endpoint-2:8000"),
        hosts=("endpoint-1", "ml.example.org"),
        notify_url="mailto://127.0.0.1/?to=team@example.org",
        signing={"NIGHTSHIFT_SIGNING_KEY": "nss_what-signs"},
        trusted={"NIGHTSHIFT_TRUSTED_KEYS": "nsp_whom-to-trust"},
    )


@pytest.fixture(scope="module")
def told(made: Team) -> dict[str, dict[str, str]]:
    return {service: made.environment(service, CHECKOUT) for service in SERVICES}


def who_is_told(told: dict[str, dict[str, str]], secret: str) -> set[str]:
    return {service for service, environment in told.items() if any(secret in value for value in environment.values())}


def test_a_worker_that_runs_stages_has_no_repository_no_deployers_key_and_not_airflows_database(told, made):
    for worker in ("worker", "gpu-worker"):
        names = set(told[worker])
        assert not {name for name in names if name.startswith(("NIGHTSHIFT_REPO", "NIGHTSHIFT_DEPLOYER"))}
        assert "NIGHTSHIFT_ENDPOINTS" not in names
        assert "AIRFLOW__API_AUTH__JWT_SECRET" not in names
        assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in names
        assert told[worker]["AWS_ACCESS_KEY_ID"] == made.secrets["s3"]["keys"]["worker"]["access"]


def test_each_secret_is_told_only_to_those_whose_work_needs_it(told, made):
    keys, databases = made.secrets["s3"]["keys"], made.secrets["databases"]
    airflow = {"init", "api-server", "scheduler", "dag-processor"}
    workers = {"events-worker", "worker", "gpu-worker"}
    assert who_is_told(told, keys["deployer"]["secret"]) == {"events-worker"}
    assert who_is_told(told, keys["worker"]["secret"]) == workers
    assert who_is_told(told, keys["admin"]["secret"]) == {"init"}
    assert who_is_told(told, keys["endpoint"]["secret"]) == {"endpoint"}
    assert who_is_told(told, keys["reader"]["secret"]) == {"api-server"}
    assert who_is_told(told, made.secrets["endpoint"]["key"]) == {"events-worker", "init"}
    assert who_is_told(told, made.secrets["endpoint"]["metrics_key"]) == {"prometheus"}
    assert who_is_told(told, made.secrets["grafana"]) == {"grafana"}
    assert who_is_told(told, made.notify_url) == {"events-worker"}
    assert who_is_told(told, "nss_what-signs") == {"events-worker", "init"}
    assert who_is_told(told, "nsp_whom-to-trust") == {"endpoint"}
    assert who_is_told(told, made.secrets["airflow"]["jwt_secret"]) == airflow
    assert who_is_told(told, made.secrets["airflow"]["fernet_key"]) == airflow
    assert who_is_told(told, made.secrets["airflow"]["password"]) == {"init"}
    assert who_is_told(told, databases["airflow"]) == airflow | {"postgres"}
    assert who_is_told(told, databases["celery"]) == workers | {"scheduler", "postgres"}
    assert who_is_told(told, databases["postgres"]) == {"postgres"}
    assert who_is_told(told, made.secrets["redis"]) == workers | {"scheduler", "redis"}
    assert {service for service in told if told[service].get("NIGHTSHIFT_REPO")} == {
        "init",
        "dag-processor",
        "events-worker",
    }


def test_a_teams_airflow_differs_from_one_machines_only_where_it_must(told, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("nightshift.stack.repository.branch", lambda root: "main")
    one = environment(Stack.load(tmp_path, {}))
    names = {name for name in one if name.startswith("AIRFLOW__")}
    places = {"AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__PLUGINS_FOLDER", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"}
    own = {name for name in names if "SIMPLE_AUTH_MANAGER" in name or "SECRET" in name}
    own |= {"AIRFLOW__CORE__EXECUTOR", "AIRFLOW__CORE__AUTH_MANAGER", "AIRFLOW__CORE__PARALLELISM"}
    # Its scheduler waits on its own executor; and a heartbeat a second of every task is for an api-server of few tasks.
    own |= {f"AIRFLOW__WORKERS__{name}" for name in ("MIN_HEARTBEAT_INTERVAL", "MAX_FAILED_HEARTBEATS")}
    own |= {"AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"}
    own |= {"AIRFLOW__API__HOST", "AIRFLOW__API__PORT", "AIRFLOW__API__BASE_URL"}
    places |= {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"}
    for service in ("scheduler", "worker"):
        assert {name for name in names if told[service].get(name) != one[name]} <= places | own


def test_only_what_runs_tasks_has_the_secret_of_personal_data(told, made, tmp_path: Path, monkeypatch):
    assert who_is_told(told, made.secrets["personal"]) == {"worker", "gpu-worker", "events-worker"}
    monkeypatch.setattr("nightshift.stack.repository.branch", lambda root: "main")
    stack = Stack.load(tmp_path, {})
    secret = stack.secrets["personal"]["secret"]
    assert [name for name in PROCESSES if secret in environment(stack, name).values()] == [SCHEDULER]


def test_the_endpoint_can_check_the_key_of_whoever_deploys_and_cannot_use_it(told, made):
    assert told["endpoint"]["NIGHTSHIFT_ENDPOINT_KEY_SHA256"] == digest(made.secrets["endpoint"]["key"])
    assert told["endpoint"]["NIGHTSHIFT_ALLOW_HOSTS"] == "endpoint-1,ml.example.org"


def test_users_are_kept_by_a_real_auth_manager_and_everyone_signs_in(told):
    assert told["api-server"]["AIRFLOW__CORE__AUTH_MANAGER"].endswith(".FabAuthManager")
    assert not [name for name in told["api-server"] if "SIMPLE_AUTH" in name or "ROLE_PUBLIC" in name]


def test_a_lost_message_is_sent_again_long_before_the_broker_would(told):
    scheduler = told["scheduler"]
    queued = float(scheduler["AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"])
    assert queued * int(scheduler["AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES"]) >= 24 * 3600
    assert queued < float(scheduler["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"])
    assert json.loads(scheduler["AIRFLOW__CELERY__EXTRA_CELERY_CONFIG"])["broker_connection_max_retries"] is None


def test_each_password_of_postgresql_is_that_of_the_connections_that_use_it(told, made):
    sql = made.sql()
    for name in ("airflow", "celery"):
        assert f"CREATE ROLE {name} LOGIN PASSWORD '{told['postgres'][f'{name.upper()}_PASSWORD']}'" in sql
        assert f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC" in sql
    connection = told["scheduler"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert connection == f"postgresql+psycopg2://airflow:{made.secrets['databases']['airflow']}@postgres:5432/airflow"


def test_the_identities_of_the_server_have_the_keys_that_the_services_use(told, made):
    known = {one["name"]: one for one in json.loads(s3.identities(made.secrets["s3"]["keys"]))["identities"]}
    assert known["worker"]["credentials"][0]["accessKey"] == told["gpu-worker"]["AWS_ACCESS_KEY_ID"]
    assert not [right for right in known["worker"]["actions"] if right in ("Write", f"Write:{s3.REGISTRY}")]


def test_an_env_file_gives_back_what_was_written(told):
    for environment_ in told.values():
        lines = team.env_file(environment_).splitlines()
        read = dict(shlex.split(line)[0].split("=", 1) for line in lines)
        assert read == environment_
    with pytest.raises(ValueError, match="PASSWORD"):
        team.env_file({"PASSWORD": "it's"})


def test_no_two_teams_share_a_secret():
    a, b = team.new_secrets(), team.new_secrets()
    assert a["redis"] != b["redis"]
    assert a["airflow"]["password"] != b["airflow"]["password"]
    assert a["s3"]["keys"]["deployer"]["secret"] != b["s3"]["keys"]["deployer"]["secret"]
