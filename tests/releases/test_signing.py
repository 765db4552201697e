"""Signatures: what is signed, that one cannot be moved or bent, whose counts, and that they go where releases go."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from nightshift.releases import collect, copy, entries, signing
from nightshift.releases import manifest as manifests
from nightshift.releases.errors import (
    ReleaseConflict,
    ReleaseCorrupt,
    ReleaseError,
    ReleaseUnknown,
    ReleaseUnsigned,
    StoreUnavailable,
)
from nightshift.releases.registry import Registry
from nightshift.releases.signing import PublicKey, SigningKey, Trust, own_key, sign
from nightshift.releases.store import open_store
from nightshift.releases.verify import check
from tests.serving.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def place(digest: str, key: SigningKey, model: str = "toy") -> str:
    return f"releases/{model}/{digest}/manifest.{key.public.id}.sig"


def trust(*keys: SigningKey) -> Trust:
    return Trust(",".join(str(key.public) for key in keys))


def voucher(world: World, digest: str, *trusted: SigningKey, model: str = "toy") -> PublicKey | None:
    found = world.registry.signatures(model, digest)
    return trust(*trusted).voucher(found, model, digest, world.registry.manifest_bytes(model, digest))


def demand(world: World, digest: str, trusted: Trust) -> str:
    folder = world.registry.fetch("toy", digest, world.folder / "copies")
    return trusted.demand(world.registry, folder, "toy", digest).id


def test_what_is_signed_is_the_context_the_model_the_digest_and_the_manifest(world: World) -> None:
    key, digest = SigningKey.new(), world.publish(0)
    assert sign(world.registry, "toy", digest, key)
    before = world.store.list("")
    assert not sign(world.registry, "toy", digest, key)  # again changes nothing
    assert world.store.list("") == before
    said = json.loads(world.store.get(place(digest, key)))
    manifest = world.store.get(f"releases/toy/{digest}/manifest.json")
    message = b"nightshift release signature 1\0toy\0" + digest.encode() + b"\0" + manifest
    signature = signing._decoded(said["signature"])
    Ed25519PublicKey.from_public_bytes(key.public.raw).verify(signature, message)  # raises when it does not fit
    assert voucher(world, digest, key) == key.public


def test_a_signature_counts_for_no_other_release_model_or_key(world: World) -> None:
    key, other, first, second = SigningKey.new(), SigningKey.new(), world.publish(0), world.publish(1)
    twin = world.publish(0, model="twin")
    sign(world.registry, "toy", first, key)
    signature = world.store.get(place(first, key))
    for model, digest, name in (("toy", second, key), ("twin", twin, key), ("toy", first, other)):
        world.store.put(place(digest, name, model), signature)
        assert voucher(world, digest, name, model=model) is None
    # Nor does it help to write the other release's name into it.
    said = entries.load(signature, signing.Signature, "it")
    world.store.put(place(second, key), entries.dump(said.model_copy(update={"digest": second})))
    assert voucher(world, second, key) is None
    assert voucher(world, first, key) == key.public


def test_a_bent_signature_is_none_whichever_byte_it_is_and_verify_names_it(world: World) -> None:
    key, digest = SigningKey.new(), world.publish(0)
    sign(world.registry, "toy", digest, key)
    assert check(world.store, None, None) == []
    whole = world.store.get(place(digest, key))
    manifest = world.registry.manifest_bytes("toy", digest)
    for at in range(len(whole)):
        bent = bytearray(whole)
        bent[at] ^= 1
        assert trust(key).voucher({key.public.id: bytes(bent)}, "toy", digest, manifest) is None, bent
        assert signing.fault(bytes(bent), "toy", digest, key.public.id, manifest), bent
    world.store.put(place(digest, key), bytes(bent))
    (wrong,) = check(world.store, None, None)
    assert wrong.key == place(digest, key)


def test_a_signature_by_a_key_that_names_itself_is_whole_and_counts_for_nothing(world: World) -> None:
    ours, theirs, digest = SigningKey.new(), SigningKey.new(), world.publish(0)
    sign(world.registry, "toy", digest, theirs)
    assert check(world.store, None, None) == []
    # Under the name of our key, too: the key comes from who trusts, not from the file.
    world.store.put(place(digest, ours), world.store.get(place(digest, theirs)))
    assert voucher(world, digest, ours) is None
    assert [wrong.wrong for wrong in check(world.store, None, None)] == ["names another key than its file's name"]
    with pytest.raises(ReleaseConflict, match="is not what this key signs"):
        sign(world.registry, "toy", digest, ours)


def test_several_keys_count_at_once_and_one_that_is_taken_out_no_longer(world: World, tmp_path: Path) -> None:
    old, new, digest, later = SigningKey.new(), SigningKey.new(), world.publish(0), world.publish(1)
    file = tmp_path / "trusted_keys"
    trusted = Trust(file)
    file.write_text(f"# the team's\n\n{old.public} kim, 2026-01-02\n{new.public}\n")
    sign(world.registry, "toy", digest, old)
    sign(world.registry, "toy", later, new)
    assert [demand(world, each, trusted) for each in (digest, later)] == [old.public.id, new.public.id]
    assert [key.whose for key in trusted.read()] == ["kim, 2026-01-02", ""]
    file.write_text(f"{new.public} kim\n")
    with pytest.raises(ReleaseUnsigned) as raised:
        demand(world, digest, trusted)
    assert old.public.id in raised.value.message
    assert new.public.id in raised.value.message
    sign(world.registry, "toy", digest, new)  # a signature that came after the local copy is found
    assert demand(world, digest, trusted) == new.public.id
    world.store.root.rename(tmp_path / "away")  # and kept beside it
    assert demand(world, digest, trusted) == new.public.id


@pytest.mark.parametrize("text", ["", "# nobody\n", "nsp_short kim\n", "kim\n", "ssh-ed25519 AAAA\n"])
def test_keys_that_cannot_be_read_trust_nobody_and_speak_against_no_release(tmp_path: Path, text: str) -> None:
    (tmp_path / "trusted_keys").write_text(text)
    for trusted in (Trust(tmp_path / "trusted_keys"), Trust(text), Trust(tmp_path / "gone")):
        with pytest.raises(StoreUnavailable):
            trusted.read()


def test_no_message_shows_a_private_key(tmp_path: Path) -> None:
    key = SigningKey.new()
    (tmp_path / "trusted_keys").write_text(f"{key.secret}\n")
    with pytest.raises(StoreUnavailable, match="line 1 is a private key") as raised:
        Trust(tmp_path / "trusted_keys").read()
    assert own_key({signing.VARIABLE: f" {key.secret}\n"}) == key
    assert own_key({}) is own_key({signing.VARIABLE: ""}) is None
    with pytest.raises(ReleaseError) as cut:
        own_key({signing.VARIABLE: key.secret[:-1]})
    for shown in (str(raised.value), repr(key), str(key), str(cut.value)):
        assert key.secret[4:-1] not in shown
        assert repr(key.seed) not in shown


def test_only_a_whole_release_under_its_own_name_is_signed(world: World) -> None:
    key, digest = SigningKey.new(), world.publish(0)
    manifest = world.store.get(f"releases/toy/{digest}/manifest.json")
    world.store.put(f"releases/other/{digest}/manifest.json", manifest)
    with pytest.raises(ReleaseCorrupt, match="no release of other"):
        sign(world.registry, "other", digest, key)
    world.store.put(f"releases/toy/{digest}/manifest.json", manifest + b"\n")
    with pytest.raises(ReleaseCorrupt, match="another sha256"):
        sign(world.registry, "toy", digest, key)
    with pytest.raises(ReleaseUnknown):
        sign(world.registry, "toy", "f" * 64, key)
    assert not [name for name in world.store.list("") if name.endswith(".sig")]


def test_a_manifest_cannot_list_a_signature() -> None:
    with pytest.raises(ValidationError, match="nor its signatures"):
        manifests.File(path=manifests.signature_name("0" * 16), size=1, sha256="0" * 64)


def test_a_copy_takes_the_signatures_with_it_and_those_that_came_later(world: World, tmp_path: Path) -> None:
    keys, digest = [SigningKey.new(), SigningKey.new()], world.publish(0)
    target = Registry(open_store(str(tmp_path / "other")))
    for count, key in enumerate(keys, 1):
        sign(world.registry, "toy", digest, key)
        assert copy.release(world.registry, target, "toy", digest)
        assert target.signatures("toy", digest) == world.registry.signatures("toy", digest)
        assert len(target.signatures("toy", digest)) == count
    assert not copy.release(world.registry, target, "toy", digest)
    target.store.delete(place(digest, keys[0]))
    assert copy.everything(world.store, target.store) == (1, 0)  # the backup, too
    assert set(target.signatures("toy", digest)) == {key.public.id for key in keys}


def test_gc_removes_the_signatures_with_the_release(world: World) -> None:
    digest, rules = world.publish(0), dict[str, Any](days=0, orders=0, opponents={})
    sign(world.registry, "toy", digest, SigningKey.new())
    (found,) = collect.survey(world.registry, world.ledger, **rules)
    assert collect.remove(world.registry, world.ledger, found, who="test", **rules)
    assert world.store.list("") == []
