"""``python -m nightshift.stack.init``: what must be there before a team's services start.

Buckets, Airflow's database and first user, and, unless the team has a repository elsewhere, a bare one with the
checkout's branch. Everything is made when it is missing and left alone when it is there, so it runs at every start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nightshift.errors import NightshiftError
from nightshift.stack import s3, team

CHECKOUT = Path("/checkout")  # the person's, mounted read-only


def main() -> None:
    key = {"access": os.environ["AWS_ACCESS_KEY_ID"], "secret": os.environ["AWS_SECRET_ACCESS_KEY"]}
    s3.make_buckets(os.environ["AWS_ENDPOINT_URL"], key)
    s3.check(os.environ["AWS_ENDPOINT_URL"], key)
    _say("S3: buckets are there; conditional writes and keys hold")
    _airflow("db", "migrate")
    make_user(os.environ["NIGHTSHIFT_AIRFLOW_PASSWORD"])
    repository, branch = os.environ["NIGHTSHIFT_REPO"], os.environ["NIGHTSHIFT_BRANCH"]
    if repository.startswith("/"):
        _say(f"repository: {bring(CHECKOUT, Path(repository), branch)}")


def make_user(password: str) -> None:
    """Airflow's first user, with the role Admin; one that is there keeps the password that it has."""
    # Asked for and typed, not an argument: every process of the container could read it there.
    who = ["--username", team.USER, "--firstname", "Nightshift", "--lastname", "Team", "--email", "admin@example.org"]
    _airflow("users", "create", "--role", "Admin", *who, typed=f"{password}\n{password}\n")


def bring(checkout: Path, repository: Path, branch: str) -> str:
    """:func:`push`, in words; what is in its way keeps nothing from starting where nights have a commit to run.

    Raises:
        NightshiftError: they have none.
    """
    try:
        return f"{branch} at {push(checkout, repository, branch)[:12]}"
    except NightshiftError as error:
        if not _tip(repository, branch):
            raise
        return f"nights run the last pushed commit: {error}"


def push(checkout: Path, repository: Path, branch: str) -> str:
    """The checkout's branch into the bare repository, fast-forward only; returns the commit that nights will run.

    What nights recorded meanwhile is left alone: they run the repository's tip.

    Raises:
        NightshiftError: the checkout has no such branch or cannot be read, or the two have diverged.
    """
    if not (repository / "HEAD").exists():
        _git("init", "--quiet", "--bare", f"--initial-branch={branch}", str(repository))
    # The checkout belongs to whoever made it; we only read it.
    ours = ("-c", f"safe.directory={checkout}", "-C", str(checkout))
    head = _git(*ours, "rev-parse", "--verify", f"refs/heads/{branch}")
    there = ("--git-dir", str(repository))
    tip = _tip(repository, branch)
    if tip == head or (tip and _holds(there, head, tip)):
        return tip
    pack = subprocess.run(["git", *ours, "bundle", "create", "-", branch], capture_output=True, check=False)
    if pack.returncode:
        raise NightshiftError(f"the checkout cannot be read: {pack.stderr.decode().strip()}", "check its permissions")
    bundle = repository / "checkout.bundle"
    bundle.write_bytes(pack.stdout)
    try:
        _git(*there, "fetch", "--quiet", str(bundle), f"refs/heads/{branch}:refs/heads/{branch}")
    except NightshiftError as error:
        raise NightshiftError(
            f"{branch} of this checkout and the nights' record have both moved since they last met ({error.message})",
            "git pull --rebase from the team's repository, as docs/compose.md says",
        ) from None
    finally:
        bundle.unlink()
    return head


def _tip(repository: Path, branch: str) -> str:
    """The branch's commit there; empty when there is none."""
    return _git("--git-dir", str(repository), "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")


def _holds(repository: tuple[str, ...], commit: str, tip: str) -> bool:
    asked = ["git", *repository, "merge-base", "--is-ancestor", commit, tip]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NightshiftError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _airflow(*arguments: str, typed: str = "") -> None:
    command = [sys.executable, "-m", "airflow", *arguments]
    # In a session of its own: what asks for a password would ask the terminal otherwise, where there is one.
    done = subprocess.run(command, input=typed, capture_output=True, text=True, start_new_session=True, check=False)
    if done.returncode:
        raise NightshiftError(f"airflow {' '.join(arguments[:2])} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    _say(f"Airflow: {' '.join(arguments[:2])}: done")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except NightshiftError as error:
        sys.exit(f"error: {error}")
