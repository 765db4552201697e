"""DVC's objects, by their md5: in the remote, and in this machine's shared cache."""

import configparser
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nightshift.engine.key import md5 as digest
from nightshift.errors import NightshiftError
from nightshift.releases.store import Store, open_store


def default_remote(config: Path) -> str:
    """The name of the default remote in a ``.dvc/config``; empty when there is none."""
    parser = configparser.ConfigParser()
    parser.read(config)
    return parser.get("core", "remote", fallback="")


def remote_url(config: Path) -> str:
    """The URL of the default remote in a ``.dvc/config``.

    Raises:
        NightshiftError: there is no default remote.
    """
    parser = configparser.ConfigParser()
    parser.read(config)
    url = parser.get(f"'remote \"{default_remote(config)}\"'", "url", fallback="")
    if not url:
        raise NightshiftError(f"{config} names no default remote", "dvc remote add --default store s3://<bucket>/dvc")
    return url


class Objects:
    """The remote at ``url`` and the shared cache."""

    def __init__(self, url: str, cache: Path):
        self.url = url
        self.store: Store = open_store(url)
        self.cache = cache

    def exists(self, name: str) -> bool:
        """Whether the remote has the file or, of a folder, its listing."""
        return bool(self.store.exists(_key(name)))

    def complete(self, name: str) -> bool:
        """Whether the remote has the file or, of a folder, its listing and all members."""
        if not self.exists(name):
            return False
        return all(self.exists(member) for member in set(self.members(name).values()))

    def cached(self, name: str) -> bool:
        """Whether the shared cache has the file or, of a folder, its listing and all members."""
        if not (self.cache / _key(name)).exists():
            return False
        return all((self.cache / _key(member)).exists() for member in set(self.members(name).values()))

    def members(self, name: str) -> dict[str, str]:
        """Of a folder: path to md5; of a file: nothing."""
        if not name.endswith(".dir"):
            return {}
        return {entry["relpath"]: entry["md5"] for entry in json.loads(self.read(name))}

    def read(self, name: str) -> bytes:
        """A file's content, or a folder's listing, from the cache or else the remote, its digest checked.

        Raises:
            NightshiftError: the object is nowhere, or is not what its name says.
        """
        local = self.cache / _key(name)
        if local.exists():
            content = local.read_bytes()
            if digest(content) == name.removesuffix(".dir"):
                return content
        try:
            content = self.store.get(_key(name))
        except KeyError:
            raise NightshiftError(
                f"{self.url} has no object {name}", "`dvc push` it from a machine that has it, or clear the stage"
            ) from None
        if digest(content) != name.removesuffix(".dir"):
            raise NightshiftError(f"object {name} of {self.url} is corrupt", "delete it and `dvc push` again")
        return content

    def read_json(self, name: str) -> Any:
        """A JSON file's value."""
        return json.loads(self.read(name))


def entry_hashes(entries: Iterable[dict[str, Any]], wdir: str = ".") -> dict[str, str]:
    """Path (from the root) to md5 of the deps or outs of a lock entry."""
    return {_from_root(entry["path"], wdir): entry.get("md5", "") for entry in entries}


def _from_root(path: str, wdir: str) -> str:
    return path if wdir == "." else Path(wdir, path).as_posix()


def _key(name: str) -> str:
    return f"files/md5/{name[:2]}/{name[2:]}"
