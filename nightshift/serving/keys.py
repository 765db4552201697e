"""API keys: who may ask the endpoint for what, how fast and how often.

    keys/<name>.json       create-only: the key's digest, scopes, limits, who made it and when
    revoked/<name>.json    create-only: who took it back, when and why

Neither is ever changed or deleted and a name is never given twice, so what was read once is known for good, and the two
folders are also the record of who gave what to whom. The key itself is shown once, to whoever makes it, and is nowhere.
"""

import hashlib
import json
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from nightshift.releases.errors import ReleaseConflict, ReleaseCorrupt, ReleaseError, ReleaseUnknown
from nightshift.releases.manifest import refuse_newer
from nightshift.releases.store import Store

FORMAT = 1
PREFIX = "nsk_"  # so that a key is known for one, by people and by scanners for leaked secrets
# The names of the keys that a stack's own deployer and its own Prometheus use; they are in nobody's store.
STACK, WATCHER = "stack", "stack-metrics"
SCOPES = ("predict", "metrics", "admin")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCOPE = re.compile(r"predict|metrics|admin|predict:[A-Za-z0-9][A-Za-z0-9._-]*")
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m)")
_QUOTA = re.compile(r"([1-9][0-9]{0,11})/(day|month)")
_DAYS = re.compile(r"([1-9][0-9]{0,4})d")


class WrongUse(ReleaseError):
    """A name, scope, rate, quota or expiry that is none."""

    exit_code = 2


class NameTaken(ReleaseConflict):
    """A key of this name was made before."""

    exit_code = 3


class Key(BaseModel):
    """What is known of a key. ``digest`` is the SHA-256 of its characters; times are UTC."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format: int = FORMAT
    name: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[str, ...]
    rate: str | None = None
    quota: str | None = None
    expires: AwareDatetime | None = None
    made: AwareDatetime
    made_by: str

    def may(self, scope: str) -> bool:
        """Whether it opens ``metrics``, ``admin``, ``predict:<model>``, or ``predict``: any model at all."""
        if scope in self.scopes:
            return True
        if scope == "predict":
            return any(own.startswith("predict:") for own in self.scopes)
        return scope.startswith("predict:") and "predict" in self.scopes


class Revocation(BaseModel):
    """A key taken back."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format: int = FORMAT
    name: str
    at: AwareDatetime
    by: str
    reason: str


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def per_second(rate: str) -> tuple[float, int]:
    """``10/s`` or ``600/m``: how many a second, and how many at once. WrongUse for anything else."""
    found = _RATE.fullmatch(rate)
    if not found:
        raise WrongUse(f"{rate!r} is no rate", "write it as 10/s or 600/m")
    count = int(found[1])
    return (float(count), count) if found[2] == "s" else (count / 60, count)


def per_period(quota: str) -> tuple[int, str]:
    """``1000/day`` or ``20000/month``: how many, and ``day`` or ``month``. WrongUse for anything else."""
    found = _QUOTA.fullmatch(quota)
    if not found:
        raise WrongUse(f"{quota!r} is no quota", "write it as 1000/day or 20000/month")
    return int(found[1]), found[2]


def expiry(text: str, at: datetime) -> datetime:
    """``90d`` from then, a date (it ends as that day begins, UTC) or a time. WrongUse when it is none or past."""
    if found := _DAYS.fullmatch(text):
        return at + timedelta(days=int(found[1]))
    try:
        when = datetime.fromisoformat(text)
        when = when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise WrongUse(f"{text!r} is no expiry", "write 90d, 2027-01-31 or 2027-01-31T18:00Z") from None
    if when <= at:
        raise WrongUse(f"{text} is past already", "write 90d, or a date to come")
    return when


class Keys:
    """The keys of a store, for who makes and revokes them."""

    def __init__(self, store: Store):
        self.store = store

    def create(
        self,
        name: str,
        *,
        by: str,
        scopes: tuple[str, ...] = ("predict",),
        expires: str | None = None,
        rate: str | None = None,
        quota: str | None = None,
    ) -> tuple[str, Key]:
        """A new key, and what is known of it: only the second is kept. WrongUse, NameTaken."""
        if not _NAME.fullmatch(name) or name in (STACK, WATCHER):
            raise WrongUse(
                f"{name!r} is no name for a key",
                "use letters, digits, '.', '_' and '-'; stack and stack-metrics are taken",
            )
        for scope in scopes:
            if not _SCOPE.fullmatch(scope):
                raise WrongUse(f"{scope!r} is no scope", "use predict, predict:MODEL, metrics or admin")
        if rate is not None:  # an empty one is a variable that was not set, and no wish for a key without limits
            per_second(rate)
        if quota is not None:
            per_period(quota)
        at = datetime.now(UTC).replace(microsecond=0)
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(
            name=name,
            digest=digest(secret),
            scopes=tuple(dict.fromkeys(scopes)),
            rate=rate,
            quota=quota,
            expires=expiry(expires, at) if expires is not None else None,
            made=at,
            made_by=by,
        )
        if not self.store.put_new(f"keys/{name}.json", _dump(key)):
            raise NameTaken(
                f"there is, or was, a key {name}: a name is given once, so that usage and audit speak of one key",
                f"choose another name, such as {name}-2",
            )
        return secret, key

    def revoke(self, name: str, *, by: str, reason: str) -> Revocation:
        """From the endpoints' next look on the key opens nothing. Revoking again changes nothing."""
        if not self.store.exists(f"keys/{name}.json"):
            known = ", ".join(self.read()[0]) or "none yet"
            raise ReleaseUnknown(f"there is no key {name!r}", f"keys: {known}")
        made = Revocation(name=name, at=datetime.now(UTC).replace(microsecond=0), by=by, reason=reason)
        if self.store.put_new(f"revoked/{name}.json", _dump(made)):
            return made
        return load(Revocation, self.store.get(f"revoked/{name}.json"), name)

    def read(self) -> tuple[dict[str, Key], dict[str, Revocation]]:
        """All keys ever made and all revocations, by name."""
        return (
            {name: load(Key, self.store.get(key), key) for key, name in named(self.store, "keys/")},
            {name: load(Revocation, self.store.get(key), key) for key, name in named(self.store, "revoked/")},
        )


def named(store: Store, prefix: str) -> list[tuple[str, str]]:
    """Each object's key and the name in it."""
    found = [(key, key.removeprefix(prefix).removesuffix(".json")) for key in store.list(prefix)]
    return [(key, name) for key, name in found if _NAME.fullmatch(name)]


def _dump(value: BaseModel) -> bytes:
    return (json.dumps(value.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def load(kind: type[Any], data: bytes, where: str) -> Any:
    """A Key or a Revocation. ReleaseCorrupt, FormatTooNew."""
    try:
        raw = json.loads(data)
        refuse_newer(raw, where, FORMAT)
        return kind.model_validate(raw)
    except (ValueError, ValidationError) as error:
        raise ReleaseCorrupt(f"{where} is no record of a key: {str(error)[:200]}") from error
