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
SKIPPED = {"not_passed", "not_asked"}  # what became of a deployment that was none


class EngineOperator(BaseOperator):
    """``python -m nightshift.engine <verb> [argument]`` in a process group of its own; returns its receipt.

    The receipt is for people to look at. What happened stands in the run's journal in S3, because Airflow clears a
    task's XCom when the task is tried again.
    """

    template_fields = ("verb", "argument")

    def __init__(self, *, verb: str, argument: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.verb = verb
        self.argument = argument
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        with _scratch() as receipt:
            command = [sys.executable, "-m", "nightshift.engine", self.verb]
            command += [self.argument] if self.argument else []
            command += ["--dag", self.dag_id, "--run", context["run_id"], "--receipt", str(receipt)]
            if self.verb == "begin":
                command += self._base(context)
            if self.verb == "stage":
                command += ["--attempt", str(context["ti"].try_number)]
            # PYTHONUNBUFFERED: an epoch's line is read while the next one trains.
            self._process = subprocess.Popen(
                command,
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
        message = said.get("message") or last or f"{self.verb} exited with {status}"
        if status in FINAL:
            raise AirflowFailException(message)
        if status:
            raise RuntimeError(message)
        if said.get("outcome") in SKIPPED:
            context["ti"].xcom_push(key="return_value", value=said)
            raise AirflowSkipException(message)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"dag": self.dag_id, "run": context["run_id"], **said}
        return said

    def on_kill(self) -> None:
        """Airflow gives about five seconds before it kills this process, and would leave the group behind."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)

    def _base(self, context: Context) -> list[str]:
        run = context["dag_run"]
        events = [
            {"asset": asset.name, **(event.extra or {})}
            for asset, happened in (context.get("triggering_asset_events") or {}).items()
            for event in happened
        ]
        arguments = ["--conf", json.dumps(dict(context["params"])), "--events", json.dumps(events)]
        if run.data_interval_end:  # the day on which a night runs is not complete
            arguments += ["--until", (run.data_interval_end - timedelta(days=1)).date().isoformat()]
        return arguments


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(prefix="nightshift-receipt-") as file:
        yield Path(file.name)
