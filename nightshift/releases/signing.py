"""Who vouches for a release: signatures of its manifest, by keys that the registry never sees.

    releases/<model>/<digest>/manifest.<key id>.sig      create-only, one of each key that signed; outside the digest

Ed25519 over a context, the model's name, the digest and the manifest's bytes: moved to another release, another model
or another use, a signature is none. The manifest names every other file by its sha256, so it stands for all of them.

    nss_…   the private key: 32 random bytes; whoever deploys or promotes has it in NIGHTSHIFT_SIGNING_KEY
    nsp_…   its public key, a line of the file ``trusted_keys``; its id is the beginning of its sha256
"""

import binascii
import hashlib
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.releases import entries
from nightshift.releases import manifest as manifests
from nightshift.releases.entries import FORMAT
from nightshift.releases.errors import ReleaseCorrupt, ReleaseError, ReleaseUnsigned, StoreUnavailable
from nightshift.releases.manifest import Name, Sha256, short, signature_name
from nightshift.releases.registry import Registry
from nightshift.releases.store import whole_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

VARIABLE = "NIGHTSHIFT_SIGNING_KEY"
TRUSTED = "NIGHTSHIFT_TRUSTED_KEYS"
UNSIGNED = "unsigned"  # the kind of an endpoint's refusal
_PRIVATE, _PUBLIC = "nss_", "nsp_"
_CONTEXT = b"nightshift release signature 1"


class Signature(entries.Entry):
    """What a signature's file says. ``key`` is the public one: it finds damage, and decides nothing."""

    format: int = FORMAT
    model: Name
    digest: Sha256
    key: str
    signature: str


@dataclass(frozen=True)
class PublicKey:
    """32 bytes, and what its line says about whose it is."""

    raw: bytes
    whose: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def __str__(self) -> str:
        return _PUBLIC + _text(self.raw)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        # Here and below: a process that neither signs nor checks should not pay for the library.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """A private key; its text form is ``secret``, which no log and no error ever shows."""

    seed: bytes = field(repr=False)

    @classmethod
    def new(cls) -> "SigningKey":
        return cls(secrets.token_bytes(32))

    @property
    def secret(self) -> str:
        return _PRIVATE + _text(self.seed)

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._key().public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key().sign(message)

    def _key(self) -> "Ed25519PrivateKey":
        from cryptography.hazmat.primitives.asymmetric import ed25519

        return ed25519.Ed25519PrivateKey.from_private_bytes(self.seed)


def own_key(environment: Mapping[str, str]) -> SigningKey | None:
    """The key that this process signs with; None when it has none. Raises ReleaseError when it is no key."""
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return None
    seed = _bytes(text, _PRIVATE)
    if seed is None:
        raise ReleaseError(f"{VARIABLE} is no private key of `nightshift signing-key create`", f"it begins {_PRIVATE}")
    return SigningKey(seed)


@dataclass(frozen=True)
class Trust:
    """The public keys whose signature counts: a file, read anew for each release, or a text.

    A line of the file is a key and whose it is; what begins with # is a remark. A text is keys between commas.
    """

    source: Path | str

    def read(self) -> list[PublicKey]:
        """At least one. Raises StoreUnavailable when they cannot be read: that says nothing about any release."""
        is_file = isinstance(self.source, Path)
        where = str(self.source) if is_file else TRUSTED
        try:
            text = self.source.read_text() if isinstance(self.source, Path) else self.source.replace(",", "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreUnavailable(f"the trusted keys cannot be read: {error}", f"bring {where} back") from error
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            key, _, whose = line.strip().partition(" ")
            if not key or key.startswith("#"):
                continue
            raw = _bytes(key, _PUBLIC)
            if raw is None:
                what = "is a private key: take it out, and out of Git" if _bytes(key, _PRIVATE) else "is no public key"
                raise StoreUnavailable(f"{where}, line {number} {what}", "a line is nsp_… and whose it is")
            keys.append(PublicKey(raw, whose.strip()))
        if not keys:
            raise StoreUnavailable(f"{where} names no key, so no release can be trusted", "add a key, or do without it")
        return keys

    def voucher(self, found: Mapping[str, bytes], model: str, digest: str, manifest: bytes) -> PublicKey | None:
        """The first trusted key that signed this release; ``found`` are signatures by the id of their key."""
        for key in self.read():
            if key.id in found and not _fault(found[key.id], model, digest, manifest, key):
                return key
        return None

    def demand(self, registry: Registry, folder: Path, model: str, digest: str) -> PublicKey:
        """A trusted key that signed the release whose checked copy is ``folder``.

        A signature that came later than the copy is brought from the registry, and kept beside it.
        Raises ReleaseUnsigned when no trusted key signed it, StoreUnavailable.
        """
        manifest = (folder / manifests.NAME).read_bytes()
        kept = {manifests.signed_by(path.name) or "": path.read_bytes() for path in folder.glob("manifest.*.sig")}
        key = self.voucher(kept, model, digest, manifest)
        if key:
            return key
        found = registry.signatures(model, digest)
        key = self.voucher(found, model, digest, manifest)
        if key:
            with whole_file(folder / signature_name(key.id)) as temporary:
                temporary.write_bytes(found[key.id])
            return key
        trusted = [key.id for key in self.read()]
        said = "".join(f"; that of {id} {'is not valid' if id in trusted else 'is not trusted here'}" for id in found)
        raise ReleaseUnsigned(
            f"it has no signature of a trusted key ({', '.join(trusted)}){said}",
            f"`nightshift sign {model} {short(digest)}` with one of them, then promote it",
        )


def sign(registry: Registry, model: str, digest: str, key: SigningKey) -> bool:
    """Put this key's signature beside the manifest (full digest); False when it is there already.

    Raises ReleaseUnknown, ReleaseCorrupt, StoreUnavailable; ReleaseConflict when something else lies there.
    """
    manifest = registry.manifest_bytes(model, digest)
    if manifests.load(manifest).model != model:
        raise ReleaseCorrupt(f"{short(digest)} is no release of {model}", "look with `nightshift verify`")
    signature = _text(key.sign(_message(model, digest, manifest)))
    entry = Signature(model=model, digest=digest, key=str(key.public), signature=signature)
    return registry.add_signature(model, digest, key.public.id, entries.dump(entry))


def fault(data: bytes, model: str, digest: str, key_id: str, manifest: bytes) -> str | None:
    """What is wrong with a signature's file, by the key that it names itself; None when nothing is.

    Finds damage only: whoever writes the registry can sign with a key of their own.
    """
    try:
        raw = _bytes(entries.load(data, Signature, "it").key, _PUBLIC)
    except ReleaseError as error:
        return error.message
    if raw is None or PublicKey(raw).id != key_id:
        return "names another key than its file's name"
    return _fault(data, model, digest, manifest, PublicKey(raw))


def _fault(data: bytes, model: str, digest: str, manifest: bytes, key: PublicKey) -> str | None:
    try:
        entry = entries.load(data, Signature, "it")
    except ReleaseError as error:
        return error.message
    signature = _decoded(entry.signature)
    if signature is None or not entries.is_whole(data, entry):
        return "is not, byte for byte, what was written"
    return None if key.verifies(signature, _message(model, digest, manifest)) else "does not fit this release"


def _message(model: str, digest: str, manifest: bytes) -> bytes:
    """No name holds a zero byte and a digest has 64 characters: two releases never give the same message."""
    return b"\0".join([_CONTEXT, model.encode(), digest.encode(), manifest])


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes | None:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None


def _bytes(text: str, prefix: str) -> bytes | None:
    """The 32 bytes of a key; None when this is none."""
    data = _decoded(text.removeprefix(prefix)) if text.startswith(prefix) else None
    return data if data is not None and len(data) == 32 and prefix + _text(data) == text else None
