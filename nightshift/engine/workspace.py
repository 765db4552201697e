"""A fresh folder per attempt: the run's tree with the run's fragments laid over it, and nothing of any other attempt.

It has a DVC site cache of its own and no Git history; DVC's object cache is shared by all of this machine.
"""

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightshift.engine import lock, process
from nightshift.engine.journal import safe
from nightshift.engine.objects import default_remote
from nightshift.engine.report import say
from nightshift.engine.repository import _git
from nightshift.engine.settings import child_environment
from nightshift.errors import NightshiftError

# Never links: a stage could write through them into the cache. Staging keeps DVC from advising to `git add`.
# DVC believes a remote's objects by their names, unless told to verify them.
CONFIG = """\
[core]
    autostage = true
[cache]
    dir = {cache}
    type = "reflink,copy"
['remote "{remote}"']
    verify = true
"""


@dataclass(frozen=True)
class Workspace:
    """``root`` is the project's folder; in ``scratch`` beside it is what belongs to the attempt only."""

    root: Path
    scratch: Path

    def run(self, steps: Sequence[Sequence[str]], **more: str) -> process.Ended:
        """Run steps in it (see ``process.run_steps``), saying each line; ``more`` is added to their environment."""
        environment = child_environment(DVC_SITE_CACHE_DIR=str(self.scratch / "site"), DVC_STUDIO_OFFLINE="1", **more)
        return process.run_steps(steps, self.root, environment, self.scratch / "group.json", say)


@contextmanager
def workspace(home: Path, label: str, tree: bytes) -> Iterator[Workspace]:
    """A workspace with the tree unpacked; removed in the end, and so are those that a killed attempt left behind."""
    work = home / "work"
    work.mkdir(parents=True, exist_ok=True)
    label = safe(label)
    for folder in work.glob(f"{label}.*"):
        # Another task's label may begin with this one and a point.
        if folder.name.count(".") == label.count(".") + 1 and process.left_over(folder / "group.json"):
            _remove(folder)
    folder = Path(tempfile.mkdtemp(prefix=f"{label}.", dir=work))
    try:
        process.claim(folder / "group.json")
        root = folder / "tree"
        unpack(tree, root)
        (root / ".dvc" / "config.local").write_text(
            CONFIG.format(cache=home / "cache", remote=default_remote(root / ".dvc" / "config"))
        )
        yield Workspace(root, folder)
    finally:
        _remove(folder)


def unpack(tree: bytes, root: Path) -> None:
    """A ``git archive`` into a folder that Git and DVC take for a repository's root."""
    root.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(tree), mode="r:gz") as archive:
        try:
            archive.extractall(root, filter="data")
        except tarfile.FilterError as error:
            raise NightshiftError(
                f"the commit has {error.tarinfo.name}, a link that leads out of the repository",
                "no worker could follow it: git rm it",
            ) from None
    (root / ".dvc").mkdir(exist_ok=True)
    _git(root, "init", "--quiet")


def lay_over(root: Path, fragments: Mapping[str, Mapping[str, Any]]) -> None:
    """The run's fragments over the base's files."""
    entries = {name: fragment["entry"] for name, fragment in fragments["stages"].items()}
    if entries:
        file = root / "dvc.lock"
        file.write_bytes(lock.merge_lock(file.read_bytes() if file.exists() else None, entries))
    for fragment in fragments["data"].values():
        lay_data(root, fragment["outs"], fragment["files"])
    for fragment in fragments["champions"].values():
        (root / fragment["path"]).write_text(fragment["text"])


def lay_data(root: Path, outs: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Entries of .dvc files (path from the root to entry; path to the file that names it)."""
    for file in sorted(set(files.values())):
        target = root / file
        mine = {outs[path]["path"]: outs[path] for path in outs if files[path] == file}
        target.write_bytes(lock.merge_data(target.read_bytes() if target.exists() else None, mine))


def _remove(folder: Path) -> None:
    """A folder and all in it, also what DVC made read-only."""

    def again(function: Any, path: str, _: Any) -> None:
        os.chmod(Path(path).parent, 0o700)  # noqa: PTH101 - beside the function that rmtree hands in
        if not Path(path).is_symlink() and Path(path).is_dir():
            os.chmod(path, 0o700)  # noqa: PTH101
        function(path)

    shutil.rmtree(folder, onerror=again)
