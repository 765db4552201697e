"""The dag-processor renders when the graph changes; a task's process asks neither Git nor DVC."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins"))

import dvc_tip
from dvc_graph import Dag, Task, lay_out

GIT = ("git", "-c", "user.name=A Person", "-c", "user.email=person@example.org")
STAGES = "stages:\n  fit:\n    cmd: echo ${lr} > model\n    deps: [rows]\n    outs: [model]\n"
ROWS = "outs:\n- md5: '{md5}'\n  size: 3\n  hash: md5\n  path: {path}\n"


@pytest.fixture
def commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Commits files into the repository that NIGHTSHIFT_REPO names."""
    root, bare = tmp_path / "checkout", tmp_path / "repo"
    subprocess.run([*GIT, "init", "--quiet", "-b", "main", str(root)], check=True)
    subprocess.run([*GIT, "init", "--quiet", "-b", "main", "--bare", str(bare)], check=True)
    monkeypatch.setenv("NIGHTSHIFT_REPO", str(bare))
    monkeypatch.delenv("NIGHTSHIFT_BRANCH", raising=False)

    def commit(files: dict[str, str]) -> None:
        for name, text in files.items():
            (root / name).write_text(text)
        subprocess.run([*GIT, "add", "-A"], cwd=root, check=True)
        subprocess.run([*GIT, "commit", "--quiet", "-m", "Edit"], cwd=root, check=True)
        subprocess.run([*GIT, "push", "--quiet", str(bare), "main"], cwd=root, check=True)

    return commit


def rendered(home: Path) -> int:
    dvc_tip.of_tip(home)
    return len(list((home / "graph").glob("*.json")))


def test_only_what_decides_the_graph_renders_it_anew(tmp_path: Path, commit: Callable[..., None]) -> None:
    commit({"dvc.yaml": STAGES, "params.yaml": "lr: 1\n", "rows.dvc": ROWS.format(md5="0" * 32, path="rows")})
    assert rendered(tmp_path) == 1
    commit({"rows.dvc": ROWS.format(md5="1" * 32, path="rows"), "README": "words"})
    assert rendered(tmp_path) == 1
    commit({"params.yaml": "lr: 2\n"})
    assert rendered(tmp_path) == 2
    commit({"rows.dvc": ROWS.format(md5="1" * 32, path="lines")})
    assert rendered(tmp_path) == 3


def test_a_project_needs_neither_params_nor_data_and_its_repository_may_be_a_url(
    tmp_path: Path, commit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit({"dvc.yaml": "stages:\n  hello:\n    cmd: date > now\n    outs: [now]\n"})
    url = (tmp_path / "repo").as_uri()
    monkeypatch.setenv("NIGHTSHIFT_REPO", url)
    graph = dvc_tip.of_tip(tmp_path)
    (dag,) = lay_out(graph)
    assert {name: task.upstream for name, task in dag.tasks.items()} == {
        "begin": set(),
        "hello": {"begin"},
        "record": {"hello"},
        "tell": {"begin", "hello", "record"},
    }
    assert graph["schedule"] is None
    # While the server is away the DAGs stay as they are; without any, the reason is told.
    (tmp_path / "repo").rename(tmp_path / "away")
    assert dvc_tip.of_tip(tmp_path) == graph
    with pytest.raises(ValueError, match="repo"):
        dvc_tip.of_tip(tmp_path / "nothing known")


def test_stages_that_cannot_be_run_are_an_error_with_their_lines(tmp_path: Path, commit: Callable[..., None]) -> None:
    commit({"dvc.yaml": "stages:\n  a: {cmd: x, outs: [{o: {persist: true}}], meta: {airflow: {que: gpu}}}\n"})
    with pytest.raises(ValueError, match=r"dvc\.yaml:2: stage 'a' lets o persist") as error:
        dvc_tip.of_tip(tmp_path)
    assert "did you mean queue?" in str(error.value)


def test_what_dvc_cannot_read_is_not_read_again_until_something_is_committed(
    tmp_path: Path, commit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit({"dvc.yaml": "stages:\n  a: {cmd: x, out: [o]}\n"})
    monkeypatch.setattr(dvc_tip, "BROKEN_S", 3600)
    with pytest.raises(ValueError, match=r"dvc\.yaml:2: "):
        dvc_tip.of_tip(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nothing/renders")
        with pytest.raises(ValueError, match=r"dvc\.yaml:2: "):
            dvc_tip.of_tip(tmp_path)
    commit({"dvc.yaml": "stages:\n  a: {cmd: x, outs: [o]}\n"})
    assert list(dvc_tip.of_tip(tmp_path)["stages"]) == ["a"]


def test_tasks_that_are_gone_stay_known_to_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(dvc_tip.Variable, "set", lambda key, value, description: written.append(value))

    def hand_on(*dags: Dag) -> None:
        dvc_tip.hand_on(dags)
        monkeypatch.setenv("AIRFLOW_VAR_NIGHTSHIFT_TASKS", written[-1])

    old = Task("fit", "stage", "fit@a", {"begin"}, {"timeout": 5})
    hand_on(Dag("train", {"fit": old, "begin": Task("begin", "begin")}, ["ingest"]), Dag("dropped", {"fit": old}, []))
    hand_on(Dag("train", {"begin": Task("begin", "begin"), "new": Task("new", "stage", "new")}, []))
    assert dvc_tip.of_task(tmp_path, "train", "fit") == Dag(
        "train", {"fit": Task("fit", "stage", "fit@a", hints={"timeout": 5})}, []
    )
    assert dvc_tip.of_task(tmp_path, "train", "new").tasks["new"].argument == "new"
    assert dvc_tip.of_task(tmp_path, "dropped", "fit").tasks["fit"].argument == "fit@a"
    with pytest.raises(ValueError, match="no task gone of train"):
        dvc_tip.of_task(tmp_path, "train", "gone")
    hand_on(Dag("train", {"new": Task("new", "stage", "new")}, []))
    assert len(written) == 2  # nothing new, nothing written
    assert json.loads(written[-1])["train"]["after"] == []
