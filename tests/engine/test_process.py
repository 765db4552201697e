"""The child: what it prints is heard line by line, and no secret of its environment with it."""

import os
from pathlib import Path

from nightshift.engine import process


def test_secrets_are_masked_in_lines_and_last_words(tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "AWS_ACCESS_KEY_ID": "worker",
        "AWS_SECRET_ACCESS_KEY": "s3(cr+et",
        "AWS_SESSION_TOKEN": "s3(cr+et-and-more",
        "HTTPS_PROXY": "http://me:pass-word@proxy:3128",
        "NCCL_TOKEN": "",
    }
    heard: list[str] = []
    show = "env; echo $AWS_SECRET_ACCESS_KEY >&2; echo wrong key $AWS_SESSION_TOKEN; exit 3"
    ended = process.run_steps([["run", "sh", "-c", show]], tmp_path, environment, tmp_path / "group.json", heard.append)
    assert ended.status == 3
    assert ended.last_words() == "wrong key ***"
    assert {"AWS_ACCESS_KEY_ID=worker", "AWS_SECRET_ACCESS_KEY=***", "AWS_SESSION_TOKEN=***", "NCCL_TOKEN="} <= {*heard}
    assert "HTTPS_PROXY=http://me:***@proxy:3128" in heard
    assert not [line for line in [*heard, *ended.tail] if "cr+et" in line or "pass-word" in line]


def test_who_is_gone_is_known_only_of_this_machine() -> None:
    me = process.me()
    assert not process.is_gone(me)
    assert process.is_gone(me | {"started": "1"}), "another process had this number"
    assert not process.is_gone(me | {"started": "1", "machine": "another"})


def test_a_step_may_name_the_days_of_a_whole_history(tmp_path: Path) -> None:
    """All in one argument would be more than Linux allows (128 KiB)."""
    days = [f"data/cifar10/date={number:08}.parquet" for number in range(5000)]
    heard: list[str] = []
    step = ["run", "sh", "-c", "echo $#", "sh", *days]
    ended = process.run_steps([step], tmp_path, dict(os.environ), tmp_path / "group.json", heard.append)
    assert (ended.status, heard) == (0, ["5000"])
