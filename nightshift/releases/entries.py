"""What the ledger is made of: small JSON objects, put create-only, never changed, each with a checksum of itself.

    entry --dump--> bytes --load--> entry          one flipped byte is a ReleaseCorrupt that names the object

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


Kind = TypeVar("Kind", bound=Entry)


def dump(entry: Entry) -> bytes:
    """The bytes of an entry, with its checksum."""
    said = entry.model_dump(mode="json")
    return _canonical({**said, "sha256": digest(_canonical(said))})


def read(store: Store, key: str, kind: type[Kind]) -> Kind:
    """The entry that is listed under this key. Raises what ``load`` does, also when it cannot be read."""
    where = f"{store.url}/{key}"
    try:
        return load(store.get(key), kind, where)
    except KeyError:
        raise ReleaseCorrupt(f"{where} is listed and cannot be read", "bring back a copy, or remove it") from None


def demand_place(store: Store, key: str, own: str) -> None:
    """Raises ReleaseCorrupt for an entry that lies under another key than its own: nobody said there what it says."""
    if key != own:
        raise ReleaseCorrupt(f"{store.url}/{key} is a copy of {own} and says nothing here", "remove it")


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
