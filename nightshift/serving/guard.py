"""Who may ask: the host that a request names, its API key, the key's scopes, rate and quota.

On the hot path there is one digest, one look-up and, for a key with a rate, one lock; a thread reads
the keys, and another, which may hang with its store, writes usage and the audit log.

On loopback, while no key was ever made, models are open and only metrics and administration need a key: the stack's
own. With the first key made, or at any other address, everything needs one but health, the documents and their pages.
"""

import logging
import math
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nightshift.releases.errors import ReleaseError
from nightshift.releases.store import open_store
from nightshift.serving import keyring as keyrings
from nightshift.serving import keys as api_keys
from nightshift.serving import usage as usages
from nightshift.serving.audit import DONE, Audit
from nightshift.serving.call import Call
from nightshift.serving.hosts import Header, Hosts
from nightshift.serving.keyring import Keyring
from nightshift.serving.keys import SCOPES, STACK, WATCHER, Key
from nightshift.serving.limits import Rates, Spent, bounds
from nightshift.serving.places import place
from nightshift.serving.tensors import RequestError, ask_again
from nightshift.serving.usage import Usage

log = logging.getLogger("nightshift.serving")


class Guard:
    """What one process checks of every request, and counts of every answer."""

    def __init__(self, hosts: Hosts, keyring: Keyring, usage: Usage, audit: Audit, rates: Rates):
        self.hosts = hosts
        self.keyring = keyring
        self.usage = usage
        self.audit = audit
        self._rates = rates
        self._spent: dict[str, Spent] = {}
        self._wake = threading.Event()
        self._looked = threading.Event()
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read_keys, name="read keys", daemon=True)
        self._writer = threading.Thread(target=self._write, name="write usage and audit", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether it is known who may ask."""
        return self.keyring.read_once

    @property
    def required(self) -> bool:
        """Whether models need a key."""
        return self.hosts.exposed or self.keyring.required

    # The hot path

    def enter(self, call: Call, need: str, header: Header, name: str | None = None) -> None:
        """Let the request in, with its key's name in ``call.key``, or raise RequestError 401, 403, 421, 429 or 503.

        ``need`` is "open", "infer" (of the model of this ``name``, which need not be there; without one, anything about
        models), "metrics" or "admin".
        """
        if need == "open":
            return
        if call.protocol == "rest":  # a browser, which this is about, speaks no gRPC
            self.hosts.check(header("host"))
        try:
            self._check_key(call, need, header, name)
            if need == "admin":
                self.hosts.check_origin(header)
        except RequestError as error:
            if need == "admin":
                self.audit.note(call.verb or need, call.key or "nobody", f"refused: {error.status}", call.id)
            raise
        if need == "admin" and call.verb == "refresh":
            self.audit.note("refresh", call.key or "nobody", DONE, call.id)

    def watch(self, call: Call) -> None:
        """The end of a call: what it used is counted, and what was not answered costs no quota.

        Who hangs up when the model has run pays for it, or would have as many runs as he likes.
        """
        answered = call.status == 200 or (call.status == 499 and call.batch)
        if answered and call.model is not None and call.items:
            self.usage.count(call.key or "", call.model.name, call.model.version, call.items, call.computed)
        elif call.counted and call.key in self._spent:
            self._spent[call.key].give_back()

    def knock(self, call: Call, need: str, header: Header) -> Key | None:
        """Whether it is somebody, in ``call.key``: for who learns only from the body which model is asked.

        Raises RequestError 401 or 503; None where nobody needs a key.
        """
        given = _key_of(header)
        found = self.keyring.find(given) if given else None
        if not self.ready and not (found and found[0].name in (STACK, WATCHER)):
            raise ask_again("the API keys are not read yet; ask again")
        if found is None:
            if need == "infer" and not self.required:
                return None
            raise _unauthorized(_unknown(given, need))
        key, revoked = found
        call.key = key.name
        if revoked:
            raise _unauthorized(f"the API key {key.name} was revoked; ask whoever gave it to you for another")
        if key.expires and datetime.now(UTC) >= key.expires:
            raise _unauthorized(f"the API key {key.name} expired at {key.expires:%Y-%m-%d %H:%M} UTC; ask for another")
        call.known = key
        return key

    def _check_key(self, call: Call, need: str, header: Header, name: str | None) -> None:
        key = call.known or self.knock(call, need, header)
        if key is None:
            return
        scope = need
        if need == "infer":
            scope = "predict" if name is None else f"predict:{name}"
        if not key.may(scope):
            scope, has = scope[:100], ", ".join(key.scopes)
            said = scope if scope.isprintable() else ascii(scope)  # a caller's words: anything may stand in them
            raise RequestError(403, f"the API key {key.name} has no scope {said}, only {has}; ask for a key with it")
        if need == "infer" and (key.rate or key.quota):
            self._check_limits(call, key)

    def _check_limits(self, call: Call, key: Key) -> None:
        if key.rate:
            wait = self._rates.take(key.name, *api_keys.per_second(key.rate))
            if wait:
                raise _later(f"the API key {key.name} may ask {key.rate}; wait a moment", wait)
        if key.quota and call.model is not None:
            most, period = api_keys.per_period(key.quota)
            at = datetime.now(UTC)
            wait = self._of(key, at).seconds_left(most, at)
            if wait:
                raise _later(f"the API key {key.name} has used its {most} requests of this {period} (UTC)", wait)
            call.counted = True

    # The threads

    def start(self) -> None:
        self._reader.start()
        self._writer.start()

    def stop(self) -> None:
        """Writes what is counted; waits for it, but not long."""
        self._stop.set()
        self._wake.set()
        self._writer.join(10)

    def refresh(self) -> None:
        """Read the keys now instead of at the next poll."""
        self._wake.set()

    def flush(self) -> None:
        """Write what was counted, and read what others counted."""
        try:
            self.usage.flush()
            self.audit.flush()
            self._read_quotas()
        except ReleaseError as error:
            log.warning("usage and audit wait to be written: %s", error.message)

    def _read_keys(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.keyring.step()
            except Exception:
                log.exception("reading keys failed; it is tried again")
            self._looked.set()
            self._wake.wait(keyrings.POLL_S)

    def _write(self) -> None:
        self._looked.wait(usages.FLUSH_S)  # a key's quota is read with what was used of it, once the key is known
        while True:
            ending = self._stop.is_set()
            try:
                self.flush()
            except Exception:
                log.exception("writing usage failed; it is tried again")
            if ending:
                return
            self._stop.wait(usages.FLUSH_S)

    def _read_quotas(self) -> None:
        """What other processes, and this one's predecessors, have counted for keys with a quota."""
        at = datetime.now(UTC)
        spent = {key.name: self._of(key, at) for key in self.keyring.known() if key.quota}
        if not spent:
            return
        since = {name: bounds(one.period, at)[0].date() for name, one in spent.items()}
        counts = dict.fromkeys(spent, 0)
        for day, name, count in self.usage.of_others(min(since.values())):
            if name in counts and day >= since[name]:
                counts[name] += count
        for name, one in spent.items():
            one.others = counts[name]

    def _of(self, key: Key, at: datetime) -> Spent:
        return self._spent.setdefault(key.name, Spent(api_keys.per_period(key.quota or "")[1], at))


def make(
    registry: str, host: str, port: int, copies: Path, hosts: Sequence[str] = (), origins: Sequence[str] = ()
) -> Guard:
    """The guard of one process at this address, with the stores that its environment names. Reads nothing yet."""
    url, instance = place("served", registry), usages.instance()
    served = open_store(url) if url else None
    return Guard(
        Hosts(host, hosts, origins),
        keyring(registry, copies),
        Usage(served, instance),
        Audit(served, instance),
        Rates(copies / f"rates-{port}"),
    )


def keyring(registry: str, copies: Path) -> Keyring:
    """The keys of an endpoint on this registry. Reads only what it remembers."""
    url = place("keys", registry)
    return Keyring(open_store(url) if url else None, copies / "keys.json", _own_keys())


def _own_keys() -> list[Key]:
    """The keys of a stack or of a person's shell, from the environment: for administration, and for metrics only.

    The endpoint needs their digests and no more.
    """
    given = os.environ.get("NIGHTSHIFT_ENDPOINT_KEY")
    hashed = api_keys.digest(given) if given else os.environ.get("NIGHTSHIFT_ENDPOINT_KEY_SHA256")
    watcher = os.environ.get("NIGHTSHIFT_METRICS_KEY_SHA256")
    own: list[tuple[str, str | None, tuple[str, ...]]] = [(STACK, hashed, SCOPES), (WATCHER, watcher, ("metrics",))]
    at = datetime.fromtimestamp(0, UTC)
    return [
        Key(name=name, digest=digest, scopes=scopes, made=at, made_by="environment")
        for name, digest, scopes in own
        if digest
    ]


def _key_of(header: Header) -> str | None:
    if authorization := header("authorization"):
        scheme, _, bearer = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return bearer.strip()
    return header("x-api-key")


def _unknown(given: str | None, need: str) -> str:
    if given:
        return "this API key is not known here; check it, or ask for one (nightshift keys create)"
    what = {"infer": "models need", "metrics": "metrics need", "admin": "administration needs"}[need]
    scope = "predict" if need == "infer" else need
    return (
        f"{what} an API key: send it as Authorization: Bearer or X-API-Key "
        f"(nightshift keys create NAME --scope {scope} makes one)"
    )


def _unauthorized(message: str) -> RequestError:
    return RequestError(401, message, [("www-authenticate", 'Bearer realm="nightshift"')])


def _later(message: str, seconds: float) -> RequestError:
    return RequestError(429, message, [("retry-after", str(max(1, math.ceil(seconds))))])
