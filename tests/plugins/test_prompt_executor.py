"""The scheduler waits on its executor, and hears of a task's end at once."""

import ctypes
import multiprocessing
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins"))

import prompt_executor
from airflow.executors import local_executor
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState

KEY = TaskInstanceKey("dvc", "train", "one")


@pytest.fixture
def executor() -> local_executor.LocalExecutor:
    """One whose worker is this test."""
    executor = prompt_executor.LocalExecutor(parallelism=1)
    executor.activity_queue, executor.result_queue = multiprocessing.SimpleQueue(), multiprocessing.SimpleQueue()
    executor.workers, executor._unread_messages = {}, multiprocessing.Value(ctypes.c_uint)
    executor.running.add(KEY)
    return executor


def test_a_task_that_ends_during_the_wait_ends_the_wait(
    executor: local_executor.LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_executor, "LOOK_S", 100_000)
    threading.Timer(0.5, executor.result_queue.put, [(KEY, TaskInstanceState.SUCCESS, None)]).start()
    executor.sync()
    assert executor.get_event_buffer()[KEY][0] == TaskInstanceState.SUCCESS
    assert not executor.running


def test_without_word_of_a_task_the_scheduler_looks_again(
    executor: local_executor.LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_executor, "LOOK_S", 0.01)
    executor.sync()
    assert executor.running == {KEY}


def test_airflow_takes_it_for_the_executor_of_one_machine() -> None:
    assert prompt_executor.LocalExecutor.__name__ == local_executor.LocalExecutor.__name__
    assert prompt_executor.LocalExecutor.is_local
