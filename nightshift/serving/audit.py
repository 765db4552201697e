"""The record of administrative acts, and of the attempts that were refused.

    audit/<day>/<time>-<instance>.json    create-only: a list of what one process saw in a few seconds

Who made and revoked keys stands in the keys' own store, promotions and rollbacks in the ledger.
"""

import json
import threading
from collections import Counter, deque
from datetime import UTC, datetime
from typing import Any

from nightshift.releases.store import Store
from nightshift.serving.keys import Keys

_KEPT = 500  # refusals of each key, and of nobody, between two writings: who knocks without pause fills no memory
DONE = "done"  # the outcome of an act that was not refused


class Audit:
    """One process's acts. ``note`` is called by the event loop, ``flush`` by a thread."""

    def __init__(self, store: Store | None, instance: str):
        self.store = store
        self.instance = instance
        self._acts: deque[dict[str, Any]] = deque()
        self._refused: Counter[str] = Counter()  # of those, by who
        self._more: Counter[str] = Counter()  # refusals that were counted only
        self._lock = threading.Lock()

    def note(self, act: str, who: str, outcome: str, request: str) -> None:
        """``who`` is a key's name, or ``nobody``; ``request`` the request's id. What was done is always kept, whoever
        else knocks.
        """
        if self.store is None:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            if outcome != DONE:
                if self._refused[who] >= _KEPT:
                    self._more[who] += 1
                    return
                self._refused[who] += 1
            self._acts.append({"at": at, "act": act, "who": who, "outcome": outcome, "request": request})

    def flush(self) -> None:
        """Write what came since. Raises ReleaseError when the store is away: it is kept and written later."""
        with self._lock:
            acts, more = list(self._acts), dict(self._more)
        if not (acts or more) or self.store is None:
            return
        at = datetime.now(UTC)
        written = acts + [_act(at, f"{count} more of the like", who, "refused") for who, count in more.items()]
        name = f"audit/{at:%Y-%m-%d}/{at:%H%M%S%f}-{self.instance}.json"
        self.store.put_new(name, json.dumps(written).encode())
        with self._lock:
            self._more -= Counter(more)
            self._refused -= Counter(act["who"] for act in acts if act["outcome"] != DONE)
            for _ in acts:
                self._acts.popleft()


def read(served: Store, keys: Store) -> list[dict[str, Any]]:
    """All acts, oldest first: of the endpoints, and of those who made and revoked keys."""
    acts = [act for key in served.list("audit/") for act in json.loads(served.get(key))]
    made, revoked = Keys(keys).read()
    for key in made.values():
        acts.append(_act(key.made, f"key {key.name} made: {', '.join(key.scopes)}", key.made_by))
    for one in revoked.values():
        acts.append(_act(one.at, f"key {one.name} revoked: {one.reason}", one.by))
    return sorted(acts, key=lambda act: str(act["at"]))


def _act(at: datetime, act: str, who: str, outcome: str = DONE) -> dict[str, Any]:
    when = at.astimezone(UTC).isoformat(timespec="milliseconds")
    return {"at": when, "act": act, "who": who, "outcome": outcome, "request": ""}
