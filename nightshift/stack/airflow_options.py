"""Airflow's options that are the same wherever it runs, and how options become environment variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

Options = Mapping[str, Mapping[str, Any]]  # section to option to value
BUNDLE = "dvc_bundle.TipBundle"  # of plugins/


def common(checkout: PurePath, url: str) -> dict[str, dict[str, Any]]:
    """What every process of Airflow is told, by section.

    Args:
        checkout: where this process finds ``dags/`` and ``plugins/``.
        url: the api-server, as this process reaches it.
    """
    return {
        "core": {
            "dags_folder": checkout / "dags",
            "plugins_folder": checkout / "plugins",
            "load_examples": False,
            "execution_api_server_url": f"{url}/execution/",
        },
        "api": {"workers": 1, "instance_name": "Nightshift"},
        "logging": {"colored_console_log": False},
        "scheduler": {
            "scheduler_idle_sleep_time": 0.5,
            # A killed scheduler is noticed within half a minute, a worker that died whole within two, not five. No
            # less: a task's heartbeats go through the api-server, which may be away for a minute.
            "task_instance_heartbeat_timeout": 120,
            "task_instance_heartbeat_timeout_detection_interval": 5,
            "scheduler_health_check_threshold": 20,
            "orphaned_tasks_check_interval": 20,
        },
        "dag_processor": {
            "refresh_interval": 5,
            "min_file_process_interval": 30,
            "parsing_processes": 1,
            # A bundle that knows versions: a commit in the middle of a run does not change the run's tasks.
            "dag_bundle_config_list": json.dumps([{"name": "dags-folder", "classpath": BUNDLE, "kwargs": {}}]),
            "dag_bundle_storage_path": checkout / ".nightshift" / "airflow" / "bundles",
        },
        "workers": {
            # A task waits a minute or two for the API, also to say that it has ended; it does not take a slow first
            # answer for a failure. (The pauses between tries double up to 90 s otherwise.)
            "execution_api_timeout": 15,
            "execution_api_retries": 40,
            "execution_api_retry_wait_max": 5,
        },
    }


def variables(*options: Options) -> dict[str, str]:
    """``AIRFLOW__<SECTION>__<OPTION>`` for each option; where two say one, the later wins."""
    return {
        f"AIRFLOW__{section}__{option}".upper(): str(value)
        for part in options
        for section, named in part.items()
        for option, value in named.items()
    }
