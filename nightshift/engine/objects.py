"""DVC's objects, by their md5: in the remote, and in this machine's shared cache."""

import configparser
import json
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nightshift.engine.key import file_md5
from nightshift.engine.key import md5 as digest
from nightshift.engine.report import say
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
    url = remote_url_of(config.read_text() if config.exists() else "")
    if not url:
        raise NightshiftError(f"{config} names no default remote", "dvc remote add --default store s3://<bucket>/dvc")
    return url


def remote_url_of(text: str) -> str:
    """The same of a config's text; empty when there is none."""
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return parser.get(f"'remote \"{parser.get('core', 'remote', fallback='')}\"'", "url", fallback="")


def cache_of(root: Path) -> Path:
    """Where DVC caches a checkout's objects: as its config says, relative to it, or ``.dvc/cache``."""
    parser = configparser.ConfigParser(interpolation=None)  # its keys may hold percent signs
    parser.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    return (root / ".dvc" / parser.get("cache", "dir", fallback="cache")).resolve()


class Objects:
    """The remote at ``url`` and the shared cache."""

    def __init__(self, url: str, cache: Path):
        self.url = url
        self.store: Store = open_store(url)
        self.cache = cache

    def path(self, name: str) -> Path:
        """Where the shared cache keeps it."""
        return self.cache / _key(name)

    def exists(self, name: str) -> bool:
        """Whether the remote has the file or, of a folder, its listing."""
        return bool(self.store.exists(_key(name)))

    def complete(self, name: str) -> bool:
        """Whether the remote has the file or, of a folder, its listing and all members."""
        if not self.exists(name):
            return False
        return all(self.exists(member) for member in set(self.members(name).values()))

    def size(self, name: str) -> int:
        """Bytes of an object, by the cache or else the remote; 0 when it is nowhere."""
        return self.path(name).stat().st_size if self.path(name).exists() else self.store.size(_key(name)) or 0

    def download(self, name: str, file: Path) -> None:
        """Bring an object of the remote to a file, its digest checked.

        Raises:
            NightshiftError: the remote has no such object, or one that is not what its name says.
        """
        try:
            self.store.get_file(_key(name), file)
        except KeyError:
            raise self._missing(name) from None
        found = file_md5(file)
        if found != name.removesuffix(".dir"):
            file.unlink()
            raise self._corrupt(name, found)

    def upload(self, name: str) -> bool:
        """Put the cache's object, unless the remote has one of its name and size; whether it was put."""
        size = self.store.size(_key(name))
        if size == self.path(name).stat().st_size:
            return False
        if size is not None:
            say(f"object {name} of {self.url} has the wrong size, and is replaced by the right one")
        self.store.put_file(_key(name), self.path(name))
        return True

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
        if self.path(name).exists():
            content = self.path(name).read_bytes()
            if digest(content) == name.removesuffix(".dir"):
                return content
        try:
            content = self.store.get(_key(name))
        except KeyError:
            raise self._missing(name) from None
        if digest(content) != name.removesuffix(".dir"):
            raise self._corrupt(name, digest(content))
        return content

    def records(self, key: str) -> list[dict[str, Any]]:
        """What the remote holds under a run-cache key: lock entries, whose outputs it may have lost since."""
        from nightshift.engine import lock  # an unchanged stage needs no YAML

        return [lock.load(self.store.get(found)) for found in self.store.list(f"runs/{key[:2]}/{key}/")]

    def lost(self, record: dict[str, Any]) -> list[str]:
        """The outputs of a record that the remote does not hold whole."""
        return [path for path, name in entry_hashes(record["outs"]).items() if not self.complete(name)]

    def _missing(self, name: str) -> NightshiftError:
        return NightshiftError(
            f"{self.url} has no object {name}",
            "`dvc push` it from a machine that has it, or run the DAG that makes it with *rerun*",
        )

    def _corrupt(self, name: str, found: str) -> NightshiftError:
        return NightshiftError(
            f"object {name} of {self.url} is corrupt: its bytes have the digest {found}",
            f"delete {self.url}/{_key(name)}, and `dvc push` it from a machine that has it, or run the DAG that "
            "makes it with *rerun*",
        )

    def read_json(self, name: str) -> Any:
        """A JSON file's value."""
        return json.loads(self.read(name))


def entry_hashes(entries: Iterable[dict[str, Any]], wdir: str = ".") -> dict[str, str]:
    """Path (from the root) to md5 of the deps or outs of a lock entry."""
    return {_from_root(entry["path"], wdir): entry.get("md5", "") for entry in entries}


def made(stages: Mapping[str, Any]) -> dict[str, str]:
    """Path to hash of all that these fragments of stages made."""
    found: dict[str, str] = {}
    for fragment in stages.values():
        found |= entry_hashes(fragment["entry"].get("outs", []))
    return found


def _from_root(path: str, wdir: str) -> str:
    return path if wdir == "." else posixpath.normpath(posixpath.join(wdir, path))


def _key(name: str) -> str:
    return f"files/md5/{name[:2]}/{name[2:]}"
