"""Every disk but Git's and S3's is lost, and every secret but the signing key: `up`, and the same releases answer."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.conftest import Project

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def serves(project: Project) -> str:
    return json.loads(project.nightshift("status", "--json").stdout)["serving"]["mnist-mlp"]["serving"]


@pytest.fixture(scope="module")
def champion(project: Project) -> str:
    (model,) = project.night()["models"]
    assert model["deploy"] == "proven"
    return model["release"]


@pytest.fixture(scope="module")
def saved(project: Project, champion: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A new clone, with S3's data, the nights' repository and the signing key in their places; nothing else is."""
    project.nightshift("keys", "create", "ada")
    project.nightshift("down")
    folder = tmp_path_factory.mktemp("saved") / "checkout"
    old = project.root / ".nightshift"
    project.run("git", "clone", "--quiet", str(old / "repo.git"), str(folder))
    (folder / ".nightshift").mkdir(mode=0o700)
    shutil.move(old / "s3", folder / ".nightshift" / "s3")
    shutil.move(old / "repo.git", folder / ".nightshift" / "repo.git")
    shutil.move(old / "signing.key", folder / ".nightshift" / "signing.key")  # a person kept it: docs/keeping.md
    shutil.rmtree(project.root)
    project.root.mkdir()  # the fixture's own `down` works there
    return replace(project, root=folder)


@pytest.fixture(scope="module")
def again(saved: Project):
    saved.nightshift("up")
    yield saved
    saved.nightshift("down", check=False)


def test_the_same_release_answers(again: Project, champion: str) -> None:
    assert serves(again) == champion


def test_the_next_night_repeats_nothing(again: Project, champion: str) -> None:
    night = again.night()
    assert [one["ran"] for one in night["data_sets"] + night["models"]] == [[], []]
    assert [one["state"] for one in night["data_sets"] + night["models"]] == ["success", "success"]
    assert night["commits"] == []
    assert night["left_alone"] == ""
    assert night["models"][0]["deploy"] == "unchanged"
    assert "up to date" in again.run("dvc", "status").stdout
    assert serves(again) == champion


def test_the_ledger_the_history_and_the_keys_are_there(again: Project, champion: str) -> None:
    assert [order["digest"] for order in json.loads(again.nightshift("history", "mnist-mlp", "--json").stdout)] == [
        champion
    ]
    assert "ada" in again.nightshift("keys", "list").stdout
    chain = {link["name"]: link["state"] for link in json.loads(again.nightshift("trace", champion, "--json").stdout)}
    assert set(chain.values()) == {"whole"}, chain
    assert {"training", "data", "code"} <= chain.keys()


def test_housekeeping_finds_nothing_to_remove_from_a_young_project(again: Project) -> None:
    said = again.nightshift("housekeeping", "--dry-run").stdout
    assert "for a commit" in said
    assert "to remove by age: nothing; of DVC's objects: 0 of the remote, 0 of the cache" in said


def test_a_second_machine_needs_a_clone_and_a_key(again: Project, champion: str, tmp_path: Path) -> None:
    """As in docs/keeping.md: nothing of the first machine but its Git and its S3, as whoever works there."""
    folder = tmp_path / "second"
    again.run("git", "clone", "--quiet", str(again.root / ".nightshift" / "repo.git"), str(folder))
    settings = again.stack.environment("worker")
    second = replace(
        again, root=folder, env=dict(again.env) | {k: v for k, v in settings.items() if k.startswith("AWS_")}
    )
    second.run("dvc", "remote", "modify", "--local", "store", "endpointurl", settings["AWS_ENDPOINT_URL"])
    second.run("dvc", "pull")
    assert "up to date" in second.run("dvc", "status").stdout
    assert "didn't change, skipping" in second.run("dvc", "repro").stdout
    assert second.git("status", "--porcelain") == ""
    second.env = dict(second.env) | {name: settings[name] for name in ("NIGHTSHIFT_WORK", "NIGHTSHIFT_REGISTRY")}
    assert champion[:12] in second.nightshift("releases").stdout
    assert "unchanged" in second.nightshift("why").stdout
    served = second.nightshift("what-served", "mnist-mlp", "--at", datetime.now(UTC).isoformat()).stdout
    assert champion in served
    chain = {link["name"]: link["state"] for link in json.loads(second.nightshift("trace", champion, "--json").stdout)}
    assert chain.pop("code") == "unchecked"  # NIGHTSHIFT_REPO is not set
    assert set(chain.values()) == {"whole"}, chain
