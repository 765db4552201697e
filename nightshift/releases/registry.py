"""Releases in a store: ``releases/<model>/<digest>/<path>``, files first, manifest last, all create-only; signatures
beside it, at any time.

A release exists when its manifest does: a publisher that is killed half-way leaves nothing that a reader sees, and
publishing again finishes it.
"""

import contextlib
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import AwareDatetime

from nightshift.releases import entries
from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseConflict, ReleaseCorrupt, ReleaseUnknown
from nightshift.releases.manifest import Manifest
from nightshift.releases.store import Store

_HEX = re.compile(r"[0-9a-f]{4,64}")
_PATIENCE = timedelta(seconds=60)  # for somebody who removes the release that we publish or order
ABANDONED = timedelta(minutes=15)  # a removal this old has lost its process


@dataclass(frozen=True, order=True)
class ReleaseInfo:
    model: str
    digest: str


class Removal(entries.Entry):
    """The marker of a release that is being removed; see ``collect``."""

    who: str
    at: AwareDatetime


class Registry:
    """What is published. Raises StoreUnavailable when the store does not answer."""

    def __init__(self, store: Store):
        self.store = store

    def publish(self, folder: Path) -> str:
        """Put a whole release folder; returns its digest. Doing it again changes nothing.

        Raises ReleaseCorrupt when the folder is not what its manifest says, ReleaseConflict when the registry holds
        other bytes under one of its names.
        """
        manifest = manifests.verify(folder)
        data = (folder / manifests.NAME).read_bytes()
        digest = manifests.digest(data)
        needed = {_key(manifest.model, digest, path) for path in (file.path for file in manifest.files)}
        last = _key(manifest.model, digest, manifests.NAME)
        while True:  # again only when somebody removed this release meanwhile
            for file in manifest.files:
                key = _key(manifest.model, digest, file.path)
                if not self.store.put_new_file(key, folder / file.path) and self._sha256(key) != file.sha256:
                    raise _conflict(self.store, key)
            self.wait_for_removal(manifest.model, digest)
            if not needed <= set(self.store.list(_key(manifest.model, digest, ""))):
                continue
            if not self.store.put_new(last, data) and self.store.get(last) != data:
                raise _conflict(self.store, last)
            there = set(self.store.list(_key(manifest.model, digest, "")))
            if self.removal(manifest.model, digest) is None and needed | {last} <= there:
                break
        for path in folder.glob("manifest.*.sig"):
            if key_id := manifests.signed_by(path.name):
                self.add_signature(manifest.model, digest, key_id, path.read_bytes())
        return digest

    def fetch(self, model: str, digest: str, into: Path) -> Path:
        """The release's folder ``<into>/<model>/<digest>``, brought there if it is not, every digest checked.

        Needs no store when a whole copy is there already. Raises ReleaseUnknown, or ReleaseCorrupt naming the file.
        """
        target = into / model / digest
        if target.is_dir():
            try:
                check(target, model, digest)
            except ReleaseCorrupt:
                shutil.rmtree(target, ignore_errors=True)  # a damaged copy is no copy; the registry has the release
            else:
                return target
        data = self.manifest_bytes(model, digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent, ignore_cleanup_errors=True) as name:
            temporary = Path(name) / digest
            temporary.mkdir()
            for file in manifests.load(data).files:
                try:
                    self.store.get_file(_key(model, digest, file.path), temporary / file.path)
                except KeyError:
                    raise ReleaseCorrupt(
                        f"{self.store.url}/{_key(model, digest, file.path)} is missing", "publish the release again"
                    ) from None
            (temporary / manifests.NAME).write_bytes(data)
            for key_id, signature in self.signatures(model, digest).items():
                (temporary / manifests.signature_name(key_id)).write_bytes(signature)
            try:
                check(temporary, model, digest)
            except ReleaseCorrupt as error:  # in words that still mean something when the folder is gone
                where = f"{self.store.url}/{_key(model, digest, '').rstrip('/')}"
                raise ReleaseCorrupt(error.message.replace(str(temporary), where), error.next_step) from error
            try:
                temporary.rename(target)
            except OSError:
                check(target, model, digest)  # another process was faster; its copy must be as good as ours
        return target

    def list(self, model: str | None = None) -> "list[ReleaseInfo]":
        """What is published, sorted by model and digest."""
        prefix = f"releases/{model}/" if model else "releases/"
        found = []
        for key in self.store.list(prefix):
            parts = key.split("/")
            if len(parts) == 4 and parts[3] == manifests.NAME:
                found.append(ReleaseInfo(parts[1], parts[2]))
        return sorted(found)

    def manifest(self, model: str, digest: str) -> Manifest:
        """By digest or by the first characters of one. Raises ReleaseUnknown."""
        if len(digest) != 64:
            digest = self.resolve(model, digest)
        return manifests.load(
            self.manifest_bytes(model, digest), f"{self.store.url}/{_key(model, digest, manifests.NAME)}"
        )

    def manifest_bytes(self, model: str, digest: str) -> bytes:
        """By full digest, which they have. Raises ReleaseUnknown, ReleaseCorrupt."""
        key = _key(model, digest, manifests.NAME)
        try:
            data = self.store.get(key)
        except KeyError:
            raise ReleaseUnknown(
                f"{self.store.url} has no release {manifests.short(digest)} of {model}",
                "publish it there, or see what there is: `nightshift releases`",
            ) from None
        if manifests.digest(data) != digest:
            raise ReleaseCorrupt(
                f"{self.store.url}/{key} has another sha256 than its name says",
                "publish the release again from its package, after removing what is stored there",
            )
        return data

    def signatures(self, model: str, digest: str) -> dict[str, bytes]:
        """By the id of its key each signature that lies beside the manifest, whatever it is worth (see ``signing``)."""
        beside = _key(model, digest, "")
        found = {}
        for key in self.store.list(f"{beside}manifest."):
            if key_id := manifests.signed_by(key.removeprefix(beside)):
                with contextlib.suppress(KeyError):  # removed since it was listed
                    found[key_id] = self.store.get(key)
        return found

    def add_signature(self, model: str, digest: str, key_id: str, data: bytes) -> bool:
        """Put a signature beside the manifest; False when it is there. Raises ReleaseConflict."""
        key = _key(model, digest, manifests.signature_name(key_id))
        if self.store.put_new(key, data):
            return True
        if self.store.get(key) != data:
            raise ReleaseConflict(
                f"{self.store.url}/{key} is not what this key signs", "find out who wrote it, remove it, and sign again"
            )
        return False

    def read(self, model: str, digest: str, path: str) -> bytes:
        """One file of a release, its sha256 checked. Raises ReleaseUnknown, ReleaseCorrupt."""
        listed = self.manifest(model, digest).file(path)
        if listed is None:
            raise ReleaseCorrupt(
                f"release {manifests.short(digest)} of {model} has no {path}",
                "publish one that has it: docs/own-model.md",
            )
        key = _key(model, digest, path)
        try:
            data = self.store.get(key)
        except KeyError:
            data = None
        if data is None or manifests.digest(data) != listed.sha256:
            raise ReleaseCorrupt(f"{self.store.url}/{key} is not what its manifest says", "publish the release again")
        return data

    def resolve(self, model: str, prefix: str) -> str:
        """The one digest of this model that begins with these characters (4 at least). Raises ReleaseUnknown."""
        return _one(self.store, prefix, self.list(model), f"model {model}").digest

    def find(self, prefix: str) -> ReleaseInfo:
        """The one release of any model whose digest begins with these characters. Raises ReleaseUnknown."""
        return _one(self.store, prefix, self.list(), "any model")

    def removal(self, model: str, digest: str) -> Removal | None:
        """Who is removing this release now; None when nobody is."""
        key = _removal_key(model, digest)
        try:
            return entries.load(self.store.get(key), Removal, f"{self.store.url}/{key}")
        except KeyError:
            return None

    def wait_for_removal(self, model: str, digest: str) -> None:
        """Return when nobody is removing this release. Raises ReleaseConflict when that takes too long."""
        until = time.monotonic() + _PATIENCE.total_seconds()
        while found := self.removal(model, digest):
            if time.monotonic() > until:
                raise ReleaseConflict(
                    f"{found.who} is removing {manifests.short(digest)} of {model} since {found.at:%Y-%m-%d %H:%M} UTC",
                    f"`nightshift gc` ends a removal whose process is gone, {ABANDONED.seconds // 60} minutes later",
                )
            time.sleep(0.5)

    def begin_removal(self, model: str, digest: str, removal: Removal) -> bool:
        """Put the marker; False when somebody else is removing this release."""
        key, data = _removal_key(model, digest), entries.dump(removal)
        if self.store.put_new(key, data):
            return True
        try:
            held, version = self.store.read(key)
        except KeyError:
            return False
        if removal.at - entries.load(held, Removal, key).at < ABANDONED:
            return False
        return self.store.swap(key, data, version) is not None

    def remove(self, model: str, digest: str, until: float) -> None:
        """Delete what the registry holds of a release, the manifest first; only between begin and end of a removal.

        Raises ReleaseConflict when it is not done by ``until`` (of ``time.monotonic``): from then on others may take
        the removal over.
        """
        self.store.delete(_key(model, digest, manifests.NAME))
        for key in self.store.list(_key(model, digest, "")):
            if time.monotonic() > until:
                raise ReleaseConflict(f"removing {manifests.short(digest)} of {model} took too long", "run it again")
            self.store.delete(key)

    def end_removal(self, model: str, digest: str) -> None:
        """Take the marker away."""
        self.store.delete(_removal_key(model, digest))

    def _sha256(self, key: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            self.store.get_file(key, path)
            return manifests.sha256_of(path)


def check(folder: Path, model: str, digest: str) -> Manifest:
    """The manifest of a folder that is this release, every file of it. Raises ReleaseCorrupt naming what is not."""
    path = folder / manifests.NAME
    if path.is_file() and manifests.digest(path.read_bytes()) != digest:
        raise ReleaseCorrupt(f"{path} has another sha256 than {manifests.short(digest)}", "fetch the release again")
    manifest = manifests.verify(folder)
    if manifest.model != model:
        raise ReleaseCorrupt(f"{path} is a release of {manifest.model}, not of {model}", "fetch the release again")
    return manifest


def _one(store: Store, prefix: str, among: list[ReleaseInfo], whose: str) -> ReleaseInfo:
    if not _HEX.fullmatch(prefix):
        raise ReleaseUnknown(f"{prefix!r} is no digest", "a digest is 4 to 64 of 0-9 a-f: `nightshift releases`")
    found = [info for info in among if info.digest.startswith(prefix)]
    if not found:
        raise ReleaseUnknown(
            f"{store.url} has no release {prefix} of {whose}", "see what there is: `nightshift releases`"
        )
    if len(found) > 1:
        names = ", ".join(manifests.short(info.digest) for info in found)
        raise ReleaseUnknown(f"{prefix} may be any of {names}", "give more characters of the digest")
    return found[0]


def _key(model: str, digest: str, path: str) -> str:
    return f"releases/{model}/{digest}/{path}"


def _removal_key(model: str, digest: str) -> str:
    return f"removals/{model}/{digest}.json"


def _conflict(store: Store, key: str) -> ReleaseConflict:
    return ReleaseConflict(
        f"{store.url}/{key} holds other bytes than this release",
        "a release never changes: find out who wrote it, remove it, and publish again",
    )
