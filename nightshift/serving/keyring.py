"""The API keys as an endpoint knows them."""

import json
import logging
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from nightshift.releases.errors import FormatTooNew, ReleaseCorrupt, ReleaseError
from nightshift.releases.store import Store, whole_file
from nightshift.serving.keys import FORMAT, Key, Revocation, digest, load, named

POLL_S = 3.0

log = logging.getLogger("nightshift.serving")


class Keyring:
    """Looked up on the hot path, read from the store in a thread.

    What was read once stays known: a store that is away, emptied or not mounted opens nothing and closes nothing.
    ``remembered`` is the local file from which a restart without the store comes back.
    """

    def __init__(self, store: Store | None, remembered: Path, own: Sequence[Key] = ()):
        self.store = store
        self.problem: str | None = None
        self.read_once = store is None  # nowhere to read from: there are no keys
        self._remembered = remembered
        self._made = False
        self._keys: dict[str, Key] = {}
        self._revoked: dict[str, Revocation] = {}
        self._unreadable: set[str] = set()
        self._own = own
        self._by_digest: dict[str, tuple[Key, Revocation | None]] = {}
        # Those that were given since, by a digest that only this process can make: OpenSSL looks up at each call what
        # SHA-256 is, which takes 3 µs of a request in a loop, and more where nothing of that is in the caches.
        self._given: dict[bytes, tuple[Key, Revocation | None]] = {}
        self._secret = secrets.token_bytes(32)
        self._remember_from_file()
        self._arrange()

    @property
    def required(self) -> bool:
        """Whether a key was ever made here, also one that cannot be read: who made it wanted the endpoint closed."""
        return self._made

    def find(self, given: str) -> tuple[Key, Revocation | None] | None:
        """What is known of the key that somebody gave."""
        remembered = self._given  # first: what is found among keys that are just replaced is remembered among those
        own = blake2b(given.encode(), key=self._secret, digest_size=16).digest()
        found = remembered.get(own)
        if found is None:
            found = self._by_digest.get(digest(given))
            if found is not None:
                remembered[own] = found
        return found

    def known(self) -> list[Key]:
        return [key for key, _ in self._by_digest.values()]

    def step(self) -> None:
        """Read what is new in the store; never raises."""
        if self.store is None:
            return
        try:
            changed = self._read(self.store, "keys/", Key, self._keys)
            changed |= self._read(self.store, "revoked/", Revocation, self._revoked)
        except ReleaseError as error:
            if self.problem is None:
                log.warning("API keys cannot be read, what is known of them goes on: %s", error.message)
            self.problem = error.message
            return
        if self.problem is not None:
            log.info("API keys can be read again")
        self.problem = None
        if changed or not self.read_once:
            self._arrange()
            self._remember()
        self.read_once = True

    def _read(self, store: Store, prefix: str, kind: type[Any], known: dict[str, Any]) -> bool:
        there = named(store, prefix)
        if kind is Key and there:
            self._made = True
        new = [(key, name) for key, name in there if name not in known and key not in self._unreadable]
        for key, name in new:
            try:
                known[name] = load(kind, store.get(key), key)
            except (ReleaseCorrupt, FormatTooNew, KeyError) as error:  # one bad object, said once, stops no other key
                self._unreadable.add(key)
                log.error("%s/%s cannot be read: %s", store.url, key, error)
                if kind is Revocation:  # that it is there is what counts
                    known[name] = Revocation(name=name, at=datetime.now(UTC), by="?", reason="its record is unreadable")
        return bool(new)

    def _arrange(self) -> None:
        """One new dictionary, so that a request sees all of a change or nothing."""
        found: dict[str, tuple[Key, Revocation | None]] = {}
        for key in self._own:
            found[key.digest] = (key, None)
        for name, key in self._keys.items():
            found[key.digest] = (key, self._revoked.get(name))
        self._by_digest = found
        self._given = {}

    def _remember(self) -> None:
        state = {
            "format": FORMAT,
            "store": self.store.url if self.store else None,
            "required": self._made,
            "keys": [key.model_dump(mode="json") for key in self._keys.values()],
            "revoked": [revocation.model_dump(mode="json") for revocation in self._revoked.values()],
        }
        try:
            with whole_file(self._remembered) as temporary:
                temporary.write_text(json.dumps(state))
        except OSError as error:
            log.warning("cannot remember the API keys in %s: %s", self._remembered, error)

    def _remember_from_file(self) -> None:
        if self.store is None:
            return
        try:
            state = json.loads(self._remembered.read_text())
            if state["store"] != self.store.url:
                return
            keys = [Key.model_validate(key) for key in state["keys"]]
            revoked = [Revocation.model_validate(one) for one in state["revoked"]]
        except (OSError, ValueError, KeyError, TypeError):
            return
        self._made = bool(keys or state.get("required"))
        self._keys, self._revoked = {key.name: key for key in keys}, {one.name: one for one in revoked}
        self.read_once = True
