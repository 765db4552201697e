"""Which of DVC's objects something still names: a commit, a run, a release.

========  ============================================================================================================
of        is read
========  ============================================================================================================
commits   ``dvc.lock`` and the .dvc files of every tip and tag, and of every state that a branch had in the last days;
          on one machine also those of the person's checkout
runs      every journal that is still there, that of a run under way too
releases  every manifest in the registry: its lineage is what ``trace`` follows
========  ============================================================================================================

They are read as text: whatever looks like an object's md5 in one of them is reached, and so are the members of each
folder. So a new form of an entry loses nothing, and what only looks like a name does no harm.
"""

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

from nightshift.engine.key import EMPTY_LISTING
from nightshift.engine.objects import Objects
from nightshift.engine.report import say
from nightshift.engine.repository import Repository
from nightshift.errors import NightshiftError
from nightshift.releases.store import Store

NAME = re.compile(rb"(?<![0-9A-Za-z])[0-9a-f]{32}(?:\.dir)?(?![0-9A-Za-z])")
THREADS = 8


def names(text: bytes) -> set[str]:
    """Whatever in it could be an object's name; a sha256, a commit or a digest could not."""
    return {found.decode() for found in NAME.findall(text)}


class Reach:
    """Asked again, it reads what is new: blobs, listings and the entries of a journal never change."""

    def __init__(self, work: Store, registry: Store, objects: Objects, history: timedelta):
        self.work, self.registry, self.objects, self.history = work, registry, objects, history
        self._known: dict[str, set[str]] = {}

    def names(self, repository: Repository, checkout: Path | None, now: datetime) -> dict[str, str]:
        """Each name that is reached, and by what (``a commit``, ``a run``, ``a release``).

        Args:
            checkout: the person's, whose branches nobody else may have yet; with what it holds uncommitted.

        Raises:
            NightshiftError: the repository does not know the last run's commit, so it is not the one of the nights; or
                the listing of a folder is damaged, so what is in it cannot be told.
        """
        found = dict.fromkeys([EMPTY_LISTING], "a commit")
        runs = self._of_runs(repository)
        commits = self._of_commits(repository, now)
        if checkout and (checkout / ".git").exists():
            commits |= self._of_commits(Repository(checkout), now)
            uncommitted = [*checkout.glob("?*.dvc"), *checkout.glob("dvc.lock")]
            commits |= {name for file in uncommitted for name in names(file.read_bytes())}
        for by, mine in {"a commit": commits, "a run": runs, "a release": self._of_releases()}.items():
            for name in self._with_members(mine):
                found.setdefault(name, by)
        return found

    def _of_commits(self, repository: Repository, now: datetime) -> set[str]:
        found: set[str] = set()
        blobs = set()
        for commit in repository.states(since=now - self.history):
            for path, blob in repository.blobs(commit).items():
                if path.endswith(".dvc") or Path(path).name == "dvc.lock":
                    blobs.add(blob)
        if unknown := [blob for blob in sorted(blobs) if blob not in self._known]:
            found |= names(repository.git("cat-file", "--batch", stdin="\n".join(unknown).encode()))
            # All of them by the one answer: nobody asks which of them named it.
            self._known |= dict.fromkeys(unknown, found)
        return found.union(*(self._known[blob] for blob in blobs))

    def _of_runs(self, repository: Repository) -> set[str]:
        written = {key: at for key, at in self.work.written("runs/").items() if key.endswith(".json")}
        bases = [key for key in written if key.endswith("/base.json")]
        if bases:
            commit = json.loads(self.work.get(max(bases, key=lambda key: written[key])))["commit"]
            if repository.find(commit) is None:
                raise NightshiftError(
                    f"{repository.url or repository.folder} has no commit {commit[:12]}, on which the last run was "
                    "based: it cannot tell which of DVC's objects are needed",
                    "set NIGHTSHIFT_REPO to the repository that the nights run on",
                )
        return self._of_keys(self.work, written)

    def _of_releases(self) -> set[str]:
        keys = [
            key for key in self.registry.list("releases/") if key.count("/") == 3 and key.endswith("/manifest.json")
        ]
        return self._of_keys(self.registry, keys)

    def _of_keys(self, store: Store, keys: Iterable[str]) -> set[str]:
        """The names in these objects of a store, each read once."""

        def read(key: str) -> set[str]:
            try:
                return names(store.get(key))
            except KeyError:  # removed since it was listed
                return set()

        return self._once([f"{store.url}/{key}" for key in keys], lambda at: read(at.removeprefix(f"{store.url}/")))

    def _with_members(self, reached: set[str]) -> set[str]:
        def members(name: str) -> set[str]:
            try:
                return set(self.objects.members(name).values())
            except NightshiftError as error:
                if self.objects.exists(name):  # damaged: who mends it will want what it named
                    raise
                say(f"{error.message}: of that folder nothing is kept for its sake")
                return set()

        return reached | self._once([name for name in reached if name.endswith(".dir")], members)

    def _once(self, keys: Iterable[str], read: Callable[[str], set[str]]) -> set[str]:
        """What these keys name, several read at a time."""
        keys = list(keys)
        unknown = [key for key in keys if key not in self._known]
        with ThreadPoolExecutor(THREADS) as pool:
            self._known |= dict(zip(unknown, pool.map(read, unknown), strict=True))
        return set().union(*(self._known[key] for key in keys))
