"""Airflow's executor of one machine, on which the scheduler waits: it wakes when a task has ended, not at a next look.

The scheduler sleeps ``scheduler_idle_sleep_time`` after a look at which it found nothing to do, also when a task ends
meanwhile, and a night is a chain of short tasks. Looking more often would keep a machine busy all day.
"""

from airflow.executors import local_executor

LOOK_S = 0.5  # what Airflow learns of otherwise, such as a run that a person triggers, waits for so long at most


class LocalExecutor(local_executor.LocalExecutor):
    """Called as Airflow's is, because Airflow takes an executor of another name for one of a cluster."""

    def sync(self) -> None:
        """Wait for word of a task, then do what Airflow does; the scheduler calls it once per look."""
        self.result_queue._reader.poll(LOOK_S)  # type: ignore[attr-defined]  # its empty() is this without waiting
        super().sync()
