"""The bare repository of the nights: read its branch, archive a commit, add one, move the branch by compare-and-set.

Plain Git on objects: no work tree is touched, no Git identity is needed, and any number of writers may race.
"""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from nightshift.errors import NightshiftError

AUTHOR = {"NAME": "Nightshift", "EMAIL": "nightshift@localhost"}
STALE_S = 10  # Git holds a lock while it moves a branch, for milliseconds; an older one is of a Git that was killed


class Repository:
    """A bare repository in a folder; ``url`` is where it was cloned from, when it was."""

    def __init__(self, folder: Path, url: str | None = None):
        self.folder = folder
        self.url = url

    @classmethod
    @contextmanager
    def open(cls, where: str) -> Iterator["Repository"]:
        """The repository at a path, or a temporary bare clone of a URL."""
        if Path(where).is_dir():
            repository = cls(Path(where).absolute())
            if repository.git("rev-parse", "--is-bare-repository").strip() != b"true":
                raise NightshiftError(
                    f"{where} is a checkout: a branch moved under it would let the next commit revert the record",
                    "set NIGHTSHIFT_REPO to a bare repository; `nightshift up` makes one",
                )
            yield repository
            return
        if not re.match(r"[a-z+]+://|[^/]+@[^/]+:", where):
            raise NightshiftError(f"there is no repository {where}", "set NIGHTSHIFT_REPO; `nightshift up` makes one")
        with tempfile.TemporaryDirectory(prefix="nightshift-repository-") as folder:
            _git(Path(folder), "clone", "--quiet", "--bare", where, ".")
            yield cls(Path(folder), where)

    def tip(self, branch: str) -> str:
        """The commit that the branch points to, asked anew."""
        if self.url:
            self.git("fetch", "--quiet", self.url, f"+refs/heads/{branch}:refs/heads/{branch}")
        found = self.find(f"refs/heads/{branch}")
        if found is None:
            raise NightshiftError(
                f"{self.url or self.folder} has no branch {branch}",
                f"push it there, or set NIGHTSHIFT_BRANCH (is {branch})",
            )
        return found

    def find(self, revision: str) -> str | None:
        """The full id of a commit; None when there is none."""
        done = _run(self.folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        return done.stdout.decode().strip() or None

    def contains(self, tip: str, commit: str) -> bool:
        """Whether ``commit`` is ``tip`` or one of its ancestors."""
        return _run(self.folder, "merge-base", "--is-ancestor", commit, tip).returncode == 0

    def archive(self, commit: str) -> bytes:
        """The commit's tree as a gzipped tar, which names the commit in its header."""
        return self.git("archive", "--format=tar.gz", commit)

    def show(self, commit: str, path: str) -> bytes | None:
        """A file of a commit; None when it has none."""
        done = _run(self.folder, "cat-file", "blob", f"{commit}:{path}")
        return done.stdout if done.returncode == 0 else None

    def blobs(self, commit: str) -> dict[str, str]:
        """Path to blob id of every file of a commit."""
        listed = self.git("ls-tree", "-r", "-z", commit).decode().split("\0")
        return {path: about.split()[2] for about, _, path in (line.partition("\t") for line in listed if line)}

    def states(self, since: datetime) -> set[str]:
        """The tips of all branches and tags, and every commit that was one of a branch after ``since``.

        A commit is the tip until its child comes: what an old branch was the day before a new commit counts, too.
        """
        kept = set(self.git("rev-list", "--no-walk", "--all").decode().split())
        for line in self.git("log", "--all", "--format=%H %ct %P").decode().splitlines():
            commit, at, *parents = line.split()
            if int(at) >= since.timestamp():
                kept |= {commit, *parents}
        return kept

    def recorded(self, tip: str, since: str, line: str) -> str | None:
        """The commit after ``since`` whose message has this line; None when there is none."""
        found = self.git("log", "--format=%H", "--fixed-strings", f"--grep={line}", f"{since}..{tip}").decode().split()
        return found[0] if found else None

    def commit(self, parent: str, files: Mapping[str, bytes], message: str) -> str | None:
        """A commit on ``parent`` with these files set; None when they are so already."""
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self.git("read-tree", parent, environment=index)
            for path, content in files.items():
                blob = self.git("hash-object", "-w", "--stdin", stdin=content).decode().strip()
                self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=index)
            tree = self.git("write-tree", environment=index).decode().strip()
        if tree == self.git("rev-parse", f"{parent}^{{tree}}").decode().strip():
            return None
        who = {f"GIT_{role}_{what}": AUTHOR[what] for role in ("AUTHOR", "COMMITTER") for what in AUTHOR}
        return self.git("commit-tree", tree, "-p", parent, stdin=message.encode(), environment=who).decode().strip()

    def advance(self, branch: str, new: str, old: str) -> str:
        """Move the branch from ``old`` to ``new``; Git's words when it could not: it is elsewhere by now, or locked.

        An empty ``old`` makes a branch that must not be there yet.
        """
        if self.url:
            lease = f"--force-with-lease=refs/heads/{branch}:{old}"
            done = _run(self.folder, "push", "--quiet", lease, self.url, f"{new}:refs/heads/{branch}")
        else:
            done = _run(self.folder, "update-ref", f"refs/heads/{branch}", new, old)
            self._drop_stale_lock(done.stderr.decode(errors="replace"))
        return (done.stderr.decode(errors="replace").strip() or "refused") if done.returncode else ""

    def _drop_stale_lock(self, words: str) -> None:
        """Remove the lock that Git names as being in its way, when nobody can hold it any more."""
        if named := re.search(r"Unable to create '(.+[.]lock)': File exists", words):
            lock = Path(named[1])
            with contextlib.suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > STALE_S:
                    lock.unlink()

    def head(self, branch: str) -> str | None:
        """The commit of a branch, asked anew; None when there is none."""
        if self.url:
            _run(self.folder, "fetch", "--quiet", self.url, f"+refs/heads/{branch}:refs/heads/{branch}")
        return self.find(f"refs/heads/{branch}")

    def same_tree(self, one: str, other: str) -> bool:
        """Whether two commits have the same files."""
        return _run(self.folder, "diff", "--quiet", one, other).returncode == 0

    def git(self, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None) -> bytes:
        """Git's output; its own words when it fails."""
        return _git(self.folder, *arguments, stdin=stdin, environment=environment)


def _git(
    folder: Path, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None
) -> bytes:
    done = _run(folder, *arguments, stdin=stdin, environment=environment)
    if done.returncode:
        raise NightshiftError(f"git {' '.join(arguments[:3])} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _run(
    folder: Path, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    # What a caller's shell or hook says about another repository must not reach this one.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in ("GIT_SSH", "GIT_SSH_COMMAND")}
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**inherited, "GIT_TERMINAL_PROMPT": "0", **(environment or {})},
        input=stdin if stdin is not None else b"",
        capture_output=True,
        check=False,
    )
