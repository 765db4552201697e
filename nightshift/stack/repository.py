"""The bare repository that the nights read and record into, and the checkout's way to and from it.

No night writes into a checkout: a branch moved under a checked-out tree would let the person's next commit revert it.
So the checkout pushes what it has (fast-forward only) before a night and merges the record after it.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nightshift.errors import NightshiftError

REMOTE = "nightshift"


def git(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Git in ``root``; a failure is an error with Git's own words."""
    # A hook or an alias of the caller's shell may have set these for another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_DIR")}
    done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise NightshiftError(f"git {' '.join(arguments)} failed in {root}: {done.stderr.strip()}")
    return done


def branch(root: Path) -> str:
    """The branch that is checked out.

    Raises:
        NightshiftError: the folder is no Git checkout, or is on no branch.
    """
    done = git(root, "symbolic-ref", "--short", "HEAD", check=False)
    if done.returncode:
        raise NightshiftError(f"{root} is on no branch, so a night has nowhere to record to", "git switch main")
    return done.stdout.strip()


def make(root: Path, repository: Path) -> None:
    """The bare repository and its remote; does nothing when both are there."""
    if not (repository / "HEAD").exists():
        repository.parent.mkdir(parents=True, exist_ok=True)
        git(root, "init", "--quiet", "--bare", f"--initial-branch={branch(root)}", str(repository))
    if git(root, "remote", "get-url", REMOTE, check=False).returncode:
        git(root, "remote", "add", REMOTE, str(repository))
    else:
        git(root, "remote", "set-url", REMOTE, str(repository))


def push(root: Path) -> str:
    """The checkout's branch into the bare repository, fast-forward only; returns the commit that a night will run.

    A checkout that is behind (a scheduled night recorded meanwhile) is not an error: the night runs the tip.

    Raises:
        NightshiftError: the two have diverged; says what to type.
    """
    name = branch(root)
    git(root, "fetch", "--quiet", REMOTE)
    tip = git(root, "rev-parse", "--verify", "--quiet", f"refs/remotes/{REMOTE}/{name}", check=False).stdout.strip()
    head = git(root, "rev-parse", "HEAD").stdout.strip()
    if tip and git(root, "merge-base", "--is-ancestor", head, tip, check=False).returncode == 0:
        return tip
    if tip and git(root, "merge-base", "--is-ancestor", tip, head, check=False).returncode:
        raise NightshiftError(
            f"your branch {name} and the nights' record have both moved since they last met",
            f"git pull --rebase {REMOTE} {name}",
        )
    git(root, "push", "--quiet", REMOTE, f"{head}:refs/heads/{name}")
    return head


@dataclass(frozen=True)
class Merged:
    """What became of the checkout: its commits before and after, and why it was left alone if it was."""

    before: str
    after: str
    left_alone: str = ""


def merge(root: Path) -> Merged:
    """The nights' record into the checkout, unless a person's commits or edits are in the way."""
    name = branch(root)
    before = git(root, "rev-parse", "HEAD").stdout.strip()
    git(root, "fetch", "--quiet", REMOTE)
    done = git(root, "merge", "--ff-only", "--quiet", f"{REMOTE}/{name}", check=False)
    after = git(root, "rev-parse", "HEAD").stdout.strip()
    return Merged(before, after, done.stderr.strip() if done.returncode else "")


def edited(root: Path) -> list[str]:
    """Tracked files with edits that are not committed: a night does not see them."""
    return [line[3:] for line in git(root, "status", "--porcelain", "--untracked-files=no").stdout.splitlines()]
