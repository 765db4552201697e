"""The checkout's way to the bare repository and back, with real Git."""

from pathlib import Path

import pytest

from nightshift.errors import NightshiftError
from nightshift.stack import repository
from nightshift.stack.repository import git


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "A Person")
    git(root, "config", "user.email", "person@example.org")
    commit(root, "params.yaml", "a: 1\n")
    repository.make(root, tmp_path / "repo.git")
    return root


def commit(root: Path, name: str, text: str) -> str:
    (root / name).write_text(text)
    git(root, "add", name)
    git(root, "commit", "--quiet", "-m", f"Edit {name}")
    return git(root, "rev-parse", "HEAD").stdout.strip()


def record(tmp_path: Path, name: str, text: str) -> str:
    """A night's commit, made elsewhere and put into the bare repository."""
    other = tmp_path / "recorder"
    if not other.exists():
        git(tmp_path, "clone", "--quiet", str(tmp_path / "repo.git"), "recorder")
        git(other, "config", "user.name", "Nightshift")
        git(other, "config", "user.email", "nightshift@localhost")
    git(other, "pull", "--quiet")
    made = commit(other, name, text)
    git(other, "push", "--quiet")
    return made


def test_a_night_runs_what_is_committed_in_the_checkout(checkout, tmp_path):
    head = commit(checkout, "params.yaml", "a: 2\n")
    assert repository.push(checkout) == head
    assert git(tmp_path / "repo.git", "rev-parse", "main").stdout.strip() == head


def test_a_checkout_that_is_behind_runs_the_tip(checkout, tmp_path):
    repository.push(checkout)
    made = record(tmp_path, "dvc.lock", "schema: '2.0'\n")
    assert repository.push(checkout) == made


def test_a_record_and_a_commit_that_crossed_are_named_with_the_way_out(checkout, tmp_path):
    repository.push(checkout)
    record(tmp_path, "dvc.lock", "schema: '2.0'\n")
    commit(checkout, "params.yaml", "a: 3\n")
    with pytest.raises(NightshiftError) as caught:
        repository.push(checkout)
    assert caught.value.next_step == "git pull --rebase nightshift main"
    git(checkout, "pull", "--rebase", "--quiet", "nightshift", "main")
    assert repository.push(checkout)


def test_the_record_is_merged_and_an_unrelated_edit_is_kept(checkout, tmp_path):
    repository.push(checkout)
    made = record(tmp_path, "dvc.lock", "schema: '2.0'\n")
    (checkout / "params.yaml").write_text("a: 4\n")
    merged = repository.merge(checkout)
    assert (merged.after, merged.left_alone) == (made, "")
    assert (checkout / "params.yaml").read_text() == "a: 4\n"
    assert repository.edited(checkout) == ["params.yaml"]


def test_an_edit_in_the_way_of_the_record_is_named_and_kept(checkout, tmp_path):
    repository.push(checkout)
    record(tmp_path, "params.yaml", "a: 5\n")
    (checkout / "params.yaml").write_text("a: 6\n")
    merged = repository.merge(checkout)
    assert merged.before == merged.after
    assert "params.yaml" in merged.left_alone
    assert (checkout / "params.yaml").read_text() == "a: 6\n"


def test_a_detached_head_is_told_to_switch(checkout):
    git(checkout, "checkout", "--quiet", "--detach")
    with pytest.raises(NightshiftError, match="on no branch"):
        repository.push(checkout)
