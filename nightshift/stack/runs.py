"""Airflow's runs over its REST API (version 2), as far as a night needs it."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from nightshift.errors import NightshiftError

ENDED = {"success", "failed"}
PATIENCE = (0.2, 1, 3)  # seconds between the tries of what may be asked again


@dataclass(frozen=True)
class Run:
    """One run of one DAG."""

    dag: str
    id: str


class Airflow:
    """A client with a token of its own.

    Raises:
        NightshiftError: Airflow does not answer, or refuses the password.
    """

    def __init__(self, url: str, user: str, password: str):
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=60)
        self._who = {"username": user, "password": password}
        self._log_in()

    def _log_in(self) -> None:
        token = _content(self._try("POST", "/auth/token", repeats=True, json=self._who))["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def _send(self, method: str, path: str, **options: Any) -> Any:
        return _content(self._ask(method, path, repeats=method == "GET", **options))

    def _demand(self, method: str, path: str, wanted: dict[str, Any] | None = None) -> None:
        """Asks for what can be there only once, and so may be asked again: 409 says that an earlier try made it."""
        answer = self._ask(method, path, repeats=True, json=wanted)
        if answer.status_code != httpx.codes.CONFLICT:
            _content(answer)

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer, whatever it is; a night may outlive its token (``[api_auth] jwt_expiration_time``, a day)."""
        answer = self._try(method, path, **options)
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            return answer
        self._log_in()
        return self._try(method, path, **options)

    def _try(self, method: str, path: str, repeats: bool, trouble: bool = True, **options: Any) -> httpx.Response:
        """The answer with the token that there is.

        What ``repeats`` is asked again after each pause: a busy api-server answers late, or hangs up, or is in
        ``trouble`` (5xx: its database was locked for too long).
        """
        pauses = list(PATIENCE) if repeats else []
        while True:
            try:
                answer = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if not pauses:
                    raise NightshiftError(f"Airflow at {self.url} does not answer: {error}", "nightshift up") from None
            else:
                if not (answer.is_server_error and trouble and pauses):
                    return answer
            time.sleep(pauses.pop(0))

    def scheduler_is_well(self) -> bool:
        """Whether Airflow has heard its scheduler lately."""
        status: str = self._send("GET", "/api/v2/monitor/health")["scheduler"]["status"]
        return status == "healthy"

    def import_errors(self, since: datetime) -> list[str]:
        """What has kept a DAG file from being read since then, each in the words of its last error."""
        errors = self._send("GET", "/api/v2/importErrors")["import_errors"]
        return [
            f"{error['filename']}: {error['stack_trace'].strip().rpartition('Error: ')[2]}"
            for error in errors
            if datetime.fromisoformat(error["timestamp"]) > since
        ]

    def dags(self) -> dict[str, dict[str, Any]]:
        """Our DAGs by id, as Airflow knows them now."""
        found = self._send("GET", "/api/v2/dags", params={"tags": "nightshift", "limit": 1000})["dags"]
        return {dag["dag_id"]: dag for dag in found if not dag.get("is_stale")}

    def pools(self) -> dict[str, int]:
        """The pools by name, and how many tasks run in each at once."""
        return {
            pool["name"]: pool["slots"] for pool in self._send("GET", "/api/v2/pools", params={"limit": 1000})["pools"]
        }

    def make_pool(self, name: str, slots: int, description: str) -> None:
        """Makes a pool unless there is one of that name: its size is then a person's."""
        if name not in self.pools():
            wanted = {"name": name, "slots": slots, "description": description, "include_deferred": False}
            self._demand("POST", "/api/v2/pools", wanted)

    def tasks(self, dag: str) -> list[str]:
        """The ids of a DAG's tasks, upstream first."""
        found = {
            t["task_id"]: set(t["downstream_task_ids"]) for t in self._send("GET", f"/api/v2/dags/{dag}/tasks")["tasks"]
        }
        ordered: list[str] = []
        while found:
            free = sorted(task for task in found if not any(task in later for later in found.values()))
            ordered += free
            for task in free:
                del found[task]
        return ordered

    def parse(self, file_token: str) -> None:
        """Asks the dag-processor to read a DAG file now."""
        self._demand("PUT", f"/api/v2/parseDagFile/{file_token}")

    def trigger(self, dag: str, conf: dict[str, Any], run: str | None = None) -> Run:
        """Starts a run, of this id if one is given; ``conf`` is what the form would send.

        One that has this id already is it: an earlier try may have started it and not said so.
        """
        path, asked = f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf}
        if run is None:
            return Run(dag, self._send("POST", path, json=asked)["dag_run_id"])
        self._demand("POST", path, asked | {"dag_run_id": run})
        return Run(dag, run)

    def state(self, run: Run) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        state: str = self._send("GET", f"/api/v2/dags/{run.dag}/dagRuns/{run.id}")["state"]
        return state

    def active(self, dag: str) -> list[Run]:
        """Runs of a DAG that have not ended."""
        found = self._send("GET", f"/api/v2/dags/{dag}/dagRuns", params={"state": ["queued", "running"], "limit": 100})
        return [Run(dag, run["dag_run_id"]) for run in found["dag_runs"]]

    def instances(self, run: Run) -> dict[str, dict[str, Any]]:
        """The run's task instances by task id."""
        found = self._send("GET", f"/api/v2/dags/{run.dag}/dagRuns/{run.id}/taskInstances", params={"limit": 1000})
        return {instance["task_id"]: instance for instance in found["task_instances"]}

    def receipt(self, run: Run, task: str) -> dict[str, Any]:
        """What a task said at its end; empty when it said nothing."""
        path = f"/api/v2/dags/{run.dag}/dagRuns/{run.id}/taskInstances/{task}/xcomEntries/return_value"
        answer = self._ask("GET", path, repeats=True)
        said = None if answer.status_code == httpx.codes.NOT_FOUND else _content(answer)["value"]
        return said if isinstance(said, dict) else {}

    def log(self, run: Run, task: str, attempt: int) -> Iterator[str]:
        """The lines of a task's log."""
        path = f"/api/v2/dags/{run.dag}/dagRuns/{run.id}/taskInstances/{task}/logs/{attempt}"
        for entry in self._send("GET", path, headers={"Accept": "application/json"})["content"]:
            yield entry["event"] if isinstance(entry, dict) else entry

    def consumers(self, dag: str) -> set[str]:
        """The DAGs, not paused, that this one's asset starts."""
        assets = self._send("GET", "/api/v2/assets", params={"limit": 1000})["assets"]
        started = {
            consumer["dag_id"]
            for asset in assets
            if any(producer["dag_id"] == dag for producer in asset["producing_tasks"])
            for consumer in asset["scheduled_dags"]
        }
        return {name for name, known in self.dags().items() if name in started and not known["is_paused"]}

    def started_by(self, run: Run, awaited: Iterable[str] = ()) -> list[Run]:
        """The runs that this run's asset started so far.

        Of several events that come while a DAG is busy Airflow makes one run, and names it for one event only. So of
        the DAGs in ``awaited`` the first run that began after the event counts too: it reads what this run recorded.
        """
        wanted = {"source_dag_id": run.dag, "source_run_id": run.id, "limit": 100}
        answer = self._ask("GET", "/api/v2/assets/events", repeats=True, trouble=False, params=wanted)
        # Airflow 3.3.2 answers 500 while one of them is queued (its model wants a start date): none is known then.
        events = [] if answer.is_server_error else _content(answer)["asset_events"]
        made = [Run(one["dag_id"], one["run_id"]) for event in events for one in event["created_dagruns"]]
        for event in events:
            for dag in set(awaited) - {one.dag for one in made}:
                later = {"start_date_gte": event["timestamp"], "order_by": "start_date", "limit": 1}
                found = self._send("GET", f"/api/v2/dags/{dag}/dagRuns", params=later)["dag_runs"]
                made += [Run(dag, one["dag_run_id"]) for one in found]
        return made


def _content(answer: httpx.Response) -> Any:
    """What was answered.

    Raises:
        NightshiftError: it is an error.
    """
    if answer.is_error:
        asked = answer.request
        raise NightshiftError(
            f"Airflow said {answer.status_code} to {asked.method} {asked.url.path}: {_detail(answer)}",
            "see the log of its api-server, then type the same again" if answer.is_server_error else "",
        )
    return answer.json() if answer.content else None


def _detail(answer: httpx.Response) -> str:
    """The part of Airflow's error that a person can use: before the schema that was violated."""
    try:
        detail = answer.json()["detail"]
        if isinstance(detail, dict):  # of its database
            detail = f"{detail['reason']}: {detail['message']}"
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]
    return str(detail).partition("\n\n")[0]
