"""The operators that tell what a night came to: the last task of every DAG, and housekeeping when a night is late."""

import json
import os
import re
import threading
from collections.abc import Iterable
from typing import Any

from airflow.sdk import Context
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError
from airflow.sdk.log import mask_secret
from dvc_operator import EngineOperator, events

PATIENCE_S = 60  # for a message to go out


class Teller(EngineOperator):
    """What both have in common: they ask Airflow, and send what the engine wants told."""

    def send(self, messages: list[dict[str, Any]]) -> None:
        """Each message through Airflow's notifier, if somebody wants it; what becomes of it never fails the task."""
        url = os.environ.get("NIGHTSHIFT_NOTIFY_URL", "")
        mask_secret(url)
        mask_secret(os.environ.get("NIGHTSHIFT_HEARTBEAT_URL", ""))
        for message in messages:
            how, said = "not_wanted", ""
            if message["wanted"]:
                how, said = notify(message, url) if url else ("no_address", "")
            if how == "failed":
                self.log.error("the message of night %s is not out: %s", message["name"], said)
            self.engine("sent", message["name"], "--how", how, "--said", said)

    def paused(self, context: Context, dags: Iterable[str]) -> list[str]:
        """Those of the DAGs that a person paused; one that Airflow does not know is not among them."""
        found = []
        for dag in sorted(dags):
            try:
                if context["ti"].get_dag(dag).is_paused:
                    found.append(dag)
            except AirflowRuntimeError as error:
                self.log.warning("%s: %s", dag, error)
        return found


class TellOperator(Teller):
    """The last task of a run, also of a red one: puts its outcome into the night, and tells the night if it is whole.

    It is as red as its run. Airflow would call a run green that a person marked failed before its last task began.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        ti, run = context["ti"], context["run_id"]
        states = ti.get_task_states(dag_id=self.dag_id, run_ids=[run]).get(run, {})
        tasks = {task: {"state": state} for task, state in states.items() if task != self.task_id}
        for task, about in tasks.items():
            if about["state"] == "failed":
                about["said"] = ti.xcom_pull(task_ids=task, key="return_value") or {}
        paused = self.paused(context, self.night["after"])
        about = self.about(context) | {"paused": paused, "url": conf.get("api", "base_url")}
        status, said = self.engine(
            *("tell", "--dag", self.dag_id, "--run", run, "--about", json.dumps(about)),
            *("--events", json.dumps(events(context)), "--tasks", json.dumps(tasks)),
        )
        if status and ti.try_number <= (self.retries or 0):
            raise RuntimeError(said["message"])
        self.send(said.get("tell", []))
        # Also when there was no telling it: housekeeping does that when the night is late.
        red = [task for task, about in tasks.items() if about["state"] in ("failed", "upstream_failed")]
        if red or tasks.get("record", {}).get("state") != "success":
            raise AirflowFailException(f"this run is red: {said.get('why') or ', '.join(red) or 'it did not record'}")
        return said


class LateOperator(Teller):
    """Housekeeping: tells the nights that are late, with what each of them waits for."""

    def execute(self, context: Context) -> dict[str, Any]:
        status, said = self.engine("unfinished")
        if status:
            raise RuntimeError(said["message"])
        if not said["nights"]:
            return said
        for night in said["nights"]:
            for dag, run in night["missing"].items():
                run |= self._seen(context, dag, run["run"])
        missing = {dag for night in said["nights"] for dag in night["missing"]}
        about = {"paused": self.paused(context, missing), "url": conf.get("api", "base_url")}
        status, said = self.engine("late", "--found", json.dumps(said["nights"]), "--about", json.dumps(about))
        if status:
            raise RuntimeError(said["message"])
        self.send(said["tell"])
        return said

    def _seen(self, context: Context, dag: str, run: str | None) -> dict[str, Any]:
        """The state of a run and of its tasks; None and nothing when Airflow has no such run."""
        if run is None:
            return {"state": None, "tasks": {}}
        try:
            state = context["ti"].get_dagrun_state(dag, run)
        except AirflowRuntimeError:
            return {"state": None, "tasks": {}}
        return {"state": str(state), "tasks": context["ti"].get_task_states(dag_id=dag, run_ids=[run]).get(run, {})}


def notify(message: dict[str, Any], url: str) -> tuple[str, str]:
    """Send a message (``subject``, ``body``, ``kind``): ``sent``, or ``failed`` and why, without the URL's secrets."""
    said: list[str] = []
    thread = threading.Thread(target=_apprise, args=(message, url, said), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if thread.is_alive():
        return "failed", f"no answer within {PATIENCE_S} s"
    return ("failed", _without(url, "; ".join(said))) if said else ("sent", "")


def _apprise(message: dict[str, Any], url: str, said: list[str]) -> None:
    """The notifier says nothing of its failures but to the log of its library, which is heard here and goes nowhere."""
    import logging

    import apprise
    from airflow.providers.apprise.notifications.apprise import AppriseNotifier

    log = logging.getLogger("apprise")
    log.propagate = False
    bad = message["kind"] in ("failed", "held", "refused", "fenced", "barred", "late")
    try:
        with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as heard:
            notifier = AppriseNotifier(
                title=message["subject"],
                body=message["body"],
                notify_type=apprise.NotifyType.FAILURE if bad else apprise.NotifyType.SUCCESS,
                config=url,  # type: ignore[arg-type]  # its library takes URLs too
            )
            # Not by calling it: that would render what a person wrote into params or a file name as a template.
            notifier.notify({})
            said += heard.getvalue().split("\n")[:-1]
    except Exception as error:  # a notifier of any kind, and none may fail the night
        said.append(f"{type(error).__name__}: {error}")


def _without(url: str, text: str) -> str:
    """The text without anything that stands in the URL, but for its schema."""
    for secret in sorted({url, *re.split(r"[/@:?&=#,\s]+", url.partition("://")[2] or url)}, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "***")
    return text
