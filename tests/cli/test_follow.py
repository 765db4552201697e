"""What a person sees of a night that goes on."""

from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from nightshift.cli.follow import Followed, _look
from nightshift.stack.runs import Run


class Answers:
    """Airflow's word on one run."""

    def __init__(self, receipts: dict[str, Any] | None = None, **instances: Any):
        self.said = instances
        self.receipts = receipts or {}

    def instances(self, run: Run) -> dict[str, Any]:
        return self.said

    def receipt(self, run: Run, task: str) -> dict[str, Any]:
        return self.receipts.get(task, {})

    def log(self, run: Run, task: str, attempt: int) -> list[str]:
        return [] if task == "train" else ["bringing its inputs", "Task failed with exception"]


def queued(seconds: float) -> dict[str, Any]:
    since = datetime.now(UTC) - timedelta(seconds=seconds)
    return {"state": "queued", "queue": "gpu", "queued_when": since.isoformat(), "try_number": 1}


def test_a_task_that_no_worker_takes_is_said_once_with_its_queue():
    one = Followed(Run("train_m1", "r"), ["train"])
    assert _look(Answers(train=queued(5)), one) == []
    assert _look(Answers(train=queued(90)), one) == ["train: no worker has taken it: it waits on queue gpu"]
    assert _look(Answers(train=queued(91)), one) == []
    console = Console(width=200, record=True)
    console.print(one.line())
    assert "train waiting (no worker has taken it: it waits on queue gpu)" in console.export_text()
    assert _look(Answers(train=queued(92) | {"state": "running"}), one) == []
    assert "train running " in one.line().plain
    assert "no worker" not in one.line().plain


def test_a_failed_task_is_shown_with_its_cause_and_the_next_step():
    failed = {"state": "failed", "try_number": 2}
    one = Followed(Run("train_m1", "r"), ["evaluate"])
    said = {"outcome": "failed", "message": "evaluate@m1 failed", "next_step": "clear the task"}
    changes = _look(Answers({"evaluate": said}, evaluate=failed), one)
    assert changes == ["evaluate: failed (evaluate@m1 failed; next: clear the task)"]


def test_a_task_that_was_killed_before_it_said_anything_is_shown_with_the_end_of_its_log():
    one = Followed(Run("train_m1", "r"), ["evaluate"])
    changes = _look(Answers(evaluate={"state": "failed", "try_number": 1}), one)
    assert changes == ["evaluate: failed (bringing its inputs)"]
