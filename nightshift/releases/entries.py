"""What the ledger is made of: small JSON objects, put create-only, never changed, each with a checksum of itself.

    entry --dump--> bytes --load--> entry          one flipped byte is a ReleaseCorrupt that names the object
    Entries.get(key, kind)                         the same from a store, at its own place, and read once only

``sha256`` is that of the entry without it, as ``dump`` writes it. An entry of an older ledger may lack it.
"""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nightshift.releases.errors import ReleaseCorrupt
from nightshift.releases.manifest import digest, refuse_newer
from nightshift.releases.store import Store

FORMAT = 1


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    def own_key(self) -> str | None:
        """The key that it was put under; None for one that does not say so itself."""
        return None


Kind = TypeVar("Kind", bound=Entry)


def dump(entry: Entry) -> bytes:
    """The bytes of an entry, with its checksum."""
    said = entry.model_dump(mode="json")
    return _canonical({**said, "sha256": digest(_canonical(said))})


class Entries:
    """The entries of a store. They never change, so what was read once is kept."""

    def __init__(self, store: Store):
        self._store = store
        self._read: dict[str, Entry] = {}

    def get(self, key: str, kind: type[Kind]) -> Kind:
        """The entry that is listed under this key.

        Raises what ``load`` does; ReleaseCorrupt also when it cannot be read, or is a copy of one that lies elsewhere:
        nobody said here what that says.
        """
        found = self._read.get(key)
        if isinstance(found, kind):
            return found
        where = f"{self._store.url}/{key}"
        try:
            entry = load(self._store.get(key), kind, where)
        except KeyError:
            raise ReleaseCorrupt(f"{where} is listed and cannot be read", "bring back a copy, or remove it") from None
        own = entry.own_key()
        if own not in (None, key):
            raise ReleaseCorrupt(f"{where} is a copy of {own} and says nothing here", "remove it")
        self._read[key] = entry
        return entry

    def forget(self) -> None:
        """Read everything again: the store is another than it was."""
        self._read.clear()


def load(data: bytes, kind: type[Kind], where: str) -> Kind:
    """Raises ReleaseCorrupt when these bytes are no such entry or not the ones that were written, FormatTooNew."""
    try:
        said = json.loads(data)
        refuse_newer(said, where, FORMAT)
        checksum = said.pop("sha256", None)
        if checksum is not None and checksum != digest(_canonical(said)):
            raise ReleaseCorrupt(f"{where} is not what was written: its checksum does not fit", "bring back a copy")
        return kind.model_validate(said)
    except (ValidationError, ValueError, AttributeError, TypeError) as error:
        raise ReleaseCorrupt(f"{where} is no {kind.__name__}: {error}", "ask who wrote it") from error


def is_whole(data: bytes, entry: Entry) -> bool:
    """Whether these are, byte for byte, what ``dump`` wrote: also that nobody took the checksum away."""
    return data == dump(entry)


def _canonical(said: dict[str, Any]) -> bytes:
    return (json.dumps(said, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
