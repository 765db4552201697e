"""Digests that we compute for ourselves are DVC's own."""

import json
from typing import Any

import pytest

from nightshift.engine import lock
from nightshift.engine.key import EMPTY_LISTING, listing, md5, run_key
from tests.engine.conftest import World


def key_of(record: dict) -> str:
    deps = {dep["path"]: dep["md5"] for dep in record["deps"]}
    return run_key(record["cmd"], deps, record.get("params", {}), [out["path"] for out in record["outs"]])


def test_run_key_is_the_folder_of_every_record_that_dvc_wrote(past: World) -> None:
    records = [file for file in (past.home / "cache" / "runs").glob("*/*/*") if file.is_file()]
    assert len(records) >= 4
    for file in records:
        assert key_of(lock.load(file.read_bytes())) == file.parent.name


def test_each_record_is_in_the_remote_under_that_key(past: World) -> None:
    entries = lock.load(past.at_tip("dvc.lock"))["stages"]
    with past.settings_of():
        for entry in entries.values():
            key = key_of(entry)
            assert past.remote().list(f"runs/{key[:2]}/{key}/"), entry["cmd"]


def test_a_folder_of_code_has_the_digest_that_dvc_recorded(past: World) -> None:
    entry = lock.load(past.at_tip("dvc.lock"))["stages"]["train@m1"]
    folder = past.root / "pipelines" / "families"
    files = {file.name: md5(file.read_bytes()) for file in folder.glob("*.py")}
    assert listing(files)[0] == next(dep["md5"] for dep in entry["deps"] if dep["path"] == "pipelines/families")


def test_a_folder_without_files_has_the_empty_listing() -> None:
    assert listing({}) == (EMPTY_LISTING, b"[]")


@pytest.mark.parametrize("what", ["cmd", "deps", "params", "outs"])
def test_the_key_changes_with_everything_that_decides_outputs(what: str) -> None:
    wanted: dict[str, Any] = {"cmd": "c", "deps": {"a": "1"}, "params": {"params.yaml": {"x": 1}}, "outs": ["o"]}
    other: dict[str, Any] = {"cmd": "d", "deps": {"a": "2"}, "params": {"params.yaml": {"x": 2}}, "outs": ["p"]}
    assert run_key(**wanted) != run_key(**(wanted | {what: other[what]}))


def test_the_key_does_not_depend_on_the_order_in_which_things_are_named() -> None:
    ours = run_key("c", {"a": "1", "b": "2"}, {"p": {"x": 1, "y": {"u": 1, "v": 2}}}, ["o", "q"])
    theirs = run_key("c", {"b": "2", "a": "1"}, {"p": {"y": {"v": 2, "u": 1}, "x": 1}}, ["q", "o"])
    assert ours == theirs
    assert json.dumps(ours)
