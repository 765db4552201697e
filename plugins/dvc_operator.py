"""The operator that runs one verb of the engine as a child process, and shows what it says."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

FINAL = {2, 3}  # the engine's exit status for wrong use and for a rule's no: trying again would not change it
SKIPPED = {"not_passed", "not_asked", "not_approved", "barred"}  # what became of a deployment that was none


class EngineOperator(BaseOperator):
    """``python -m nightshift.engine <verb> [argument]`` in a process group of its own; returns its receipt.

    The receipt is for people to look at. What happened stands in the run's journal in S3, because Airflow clears a
    task's XCom when the task is tried again.
    """

    template_fields = ("verb", "argument")

    def __init__(self, *, verb: str, argument: str | None = None, night: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.verb = verb
        self.argument = argument
        self.night = night or {}  # which DAG follows which, and the queues of this DAG's tasks
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        status, said = self.engine(*self._arguments(context))
        if status or said.get("outcome") in SKIPPED:
            context["ti"].xcom_push(key="return_value", value=said)  # what is raised keeps it from being returned
        if status in FINAL:
            raise AirflowFailException(said["message"])
        if status:
            raise RuntimeError(said["message"])
        if said.get("outcome") in SKIPPED:
            raise AirflowSkipException(said["message"])
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"dag": self.dag_id, "run": context["run_id"], **said}
        return said

    def engine(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """One verb of the engine, its lines in the log; its exit status, and its receipt with at least a message."""
        with _scratch() as receipt:
            # PYTHONUNBUFFERED: an epoch's line is read while the next one trains.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nightshift.engine", *arguments, "--receipt", str(receipt)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                bufsize=1,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
            last = ""
            for line in self._process.stdout or ():
                last = line.rstrip() or last
                self.log.info("%s", line.rstrip())
            status = self._process.wait()
            said: dict[str, Any] = json.loads(receipt.read_text()) if receipt.stat().st_size else {}
        return status, {"message": last or f"{arguments[0]} exited with {status}", **said}

    def on_kill(self) -> None:
        """Airflow gives about five seconds before it kills this process, and would leave the group behind."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)

    def _arguments(self, context: Context) -> list[str]:
        arguments = [self.verb, *([self.argument] if self.argument else [])]
        arguments += ["--dag", self.dag_id, "--run", context["run_id"]]
        if self.verb == "begin":
            arguments += ["--conf", json.dumps(dict(context["params"])), "--events", json.dumps(events(context))]
            arguments += ["--about", json.dumps(self.about(context))]
            # The day on which a night runs is not complete.
            if end := context["dag_run"].data_interval_end:
                arguments += ["--until", (end - timedelta(days=1)).date().isoformat()]
        if self.verb == "stage":
            arguments += ["--attempt", str(context["ti"].try_number)]
        return arguments

    def about(self, context: Context) -> dict[str, Any]:
        """What Airflow knows of the night that this run is part of."""
        return {"date": context["dag_run"].run_after.date().isoformat(), **self.night}


def events(context: Context) -> list[dict[str, Any]]:
    """The asset events that started the run, oldest first: their assets, and what their tasks said."""
    return [
        {"asset": asset.name, **(event.extra or {})}
        for asset, happened in (context.get("triggering_asset_events") or {}).items()
        for event in happened
    ]


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(prefix="nightshift-receipt-") as file:
        yield Path(file.name)
