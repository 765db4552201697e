"""Removing what the stack and the nights made in a checkout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nightshift.stack import lifecycle, repository

# All of it is ignored by Git: what a person wrote or committed is not among it.
MADE = (".nightshift", "data", "artifacts", ".dvc/cache", ".dvc/tmp", ".dvc/config.local")


def made(root: Path) -> dict[str, float]:
    """What there is to remove, with its size in MB."""
    return {name: size_mb(root / name) for name in MADE if (root / name).exists()}


def remove(root: Path, say: lifecycle.Say) -> dict[str, float]:
    """Stops the stack and removes what was made; returns what was removed, with its size in MB."""
    lifecycle.down(root, say)
    found = made(root)
    for name in found:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    repository.git(root, "remote", "remove", repository.REMOTE, check=False)
    return found


def names_a_lost_snapshot(root: Path) -> bool:
    """Whether the branch still names data whose objects were only in what is removed."""
    return (root / "dvc.lock").exists()


def size_mb(path: Path) -> float:
    """What a file or folder takes on the disk, in MB; a file with several links counts once."""
    if not path.is_dir():
        return path.stat().st_blocks * 512 / 1e6
    seen: dict[tuple[int, int], int] = {}
    for folder, _, files in os.walk(path):
        for name in files:
            status = (Path(folder) / name).lstat()
            seen[(status.st_dev, status.st_ino)] = status.st_blocks * 512
    return sum(seen.values()) / 1e6
