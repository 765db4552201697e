"""What people said about releases and models beside the orders: *keep* and *retire*. Append-only, like the ledger.

    ledger/<model>/marks/00000003.json       create-only; of two writers one gets the number, the other takes the next

Of the marks of one kind on one thing the newest counts. A kept release is never removed. A retired one is never ordered
again, and its mark is the tombstone; a mark without a digest retires the model: endpoints then answer 410.
"""

import re
from collections.abc import Sequence
from typing import Literal
from uuid import uuid4

from pydantic import AwareDatetime, Field

from nightshift.releases import entries
from nightshift.releases.clock import Clock
from nightshift.releases.entries import Entries, Entry
from nightshift.releases.manifest import Name, Sha256, short
from nightshift.releases.store import Store

What = Literal["keep", "retire"]
WHATS: tuple[What, ...] = ("keep", "retire")
_MARK = re.compile(r"ledger/[^/]+/marks/[0-9]{8,}\.json")  # what else lies there, such as a copy, is none


class Mark(Entry):
    """``undo`` takes back what an earlier mark said. ``successor`` is the model to ask instead of a retired one."""

    format: int = entries.FORMAT
    sequence: int = Field(ge=1)
    id: str
    model: Name
    what: What
    digest: Sha256 | None
    undo: bool = False
    successor: Name | None = None
    who: str
    reason: str
    at: AwareDatetime

    def own_key(self) -> str:
        return f"ledger/{self.model}/marks/{self.sequence:08d}.json"


class Marks:
    """Reads and writes the marks of a store."""

    def __init__(self, store: Store):
        self.store = store
        self.clock = Clock(store)
        self._entries = Entries(store)

    def of(self, model: str) -> list[Mark]:
        """All marks of a model and its releases, oldest first."""
        listed = self.store.list(f"ledger/{model}/marks/")
        return [self._entries.get(key, Mark) for key in listed if _MARK.fullmatch(key)]

    def forget(self) -> None:
        """Read everything again: the store is another than it was."""
        self._entries.forget()

    def put(
        self,
        model: str,
        what: What,
        digest: str | None,
        *,
        who: str,
        reason: str,
        undo: bool = False,
        successor: str | None = None,
    ) -> Mark:
        """Put a mark under the next number, as often as it takes."""
        identity = uuid4().hex
        while True:
            before = self.of(model)
            mark = Mark(
                sequence=before[-1].sequence + 1 if before else 1,
                id=identity,
                model=model,
                what=what,
                digest=digest,
                undo=undo,
                successor=successor,
                who=who,
                reason=reason,
                at=self.clock(),
            )
            key = mark.own_key()
            # A put that timed out and was sent again finds its own first try: ours by the id, not by the answer.
            if self.store.put_new(key, entries.dump(mark)) or self._entries.get(key, Mark).id == identity:
                return mark


def standing(marks: Sequence[Mark], what: What, digest: str | None) -> Mark | None:
    """The mark of this kind that counts for a release (None: for the model), None when there is none or it was undone.

    ``marks`` are one model's, oldest first.
    """
    newest = next((mark for mark in reversed(marks) if (mark.what, mark.digest) == (what, digest)), None)
    return None if newest is None or newest.undo else newest


def retired(marks: Sequence[Mark]) -> set[str | None]:
    """The digests of retired releases, and None when the model itself is."""
    found = {mark.digest for mark in marks if mark.what == "retire"}
    return {digest for digest in found if standing(marks, "retire", digest)}


def retirement(marks: Sequence[Mark], model: str, digest: str | None = None) -> str | None:
    """That this release, or its whole model, was retired, in words for whoever asks for it; None when it was not."""
    of_model, of_release = standing(marks, "retire", None), digest and standing(marks, "retire", digest)
    mark = of_model or of_release
    if not mark:
        return None
    what = f"model {model!r}" if mark.digest is None else f"release {short(mark.digest)} of {model!r}"
    instead = f"; ask {mark.successor!r} instead" if mark.successor else ""
    return f"{what} was retired: {mark.reason}{instead}"
