"""The repository that `init` makes of a checkout; the rest of it is run with the containers (docs/compose.md)."""

import subprocess
from pathlib import Path

import pytest

from nightshift.errors import NightshiftError
from nightshift.stack.init import bring, push


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *who, "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path, text: str) -> str:
    (folder / "file").write_text(text)
    git(folder, "add", "file")
    git(folder, "commit", "--quiet", "--message", text)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "one")
    return folder


def test_the_branch_is_there_and_moves_forward_with_the_checkout(checkout: Path, tmp_path: Path):
    repository = tmp_path / "repository"
    repository.mkdir()  # as a volume is
    first = git(checkout, "rev-parse", "HEAD")
    assert push(checkout, repository, "main") == first == git(repository, "rev-parse", "main")
    assert push(checkout, repository, "main") == first
    second = commit(checkout, "two")
    assert push(checkout, repository, "main") == second == git(repository, "rev-parse", "main")
    assert {path.name for path in repository.iterdir()} >= {"HEAD", "objects"}
    assert not list(repository.glob("*.bundle"))


def test_what_nights_recorded_meanwhile_is_left_alone(checkout: Path, tmp_path: Path):
    repository, other = tmp_path / "repository", tmp_path / "other"
    push(checkout, repository, "main")
    git(tmp_path, "clone", "--quiet", str(repository), str(other))
    recorded = commit(other, "a night's record")
    git(other, "push", "--quiet", "origin", "main")
    assert push(checkout, repository, "main") == recorded == git(repository, "rev-parse", "main")
    commit(checkout, "an edit that knows nothing of it")
    with pytest.raises(NightshiftError, match="have both moved") as raised:
        push(checkout, repository, "main")
    assert "git pull --rebase" in raised.value.next_step
    assert git(repository, "rev-parse", "main") == recorded
    assert "nights run the last pushed commit: main of this checkout and" in bring(checkout, repository, "main")


def test_a_branch_that_the_checkout_has_not_is_named(checkout: Path, tmp_path: Path):
    with pytest.raises(NightshiftError, match="refs/heads/elsewhere"):
        bring(checkout, tmp_path / "repository", "elsewhere")
