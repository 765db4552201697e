"""`signing-key` and `sign` as a person types them, and what `show` and `releases` say of signatures."""

import json
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nightshift.cli.main import app
from nightshift.errors import NightshiftError
from nightshift.releases.signing import SigningKey, Trust, own_key
from tests.serving.world import World

RUNNER = CliRunner()


def run(*arguments: str) -> Result:
    result = RUNNER.invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", world.store.url)
    return world


def create(monkeypatch: pytest.MonkeyPatch, *options: str, file: str = ".nightshift/signing.key") -> str:
    """Make a key, use it from here on; its public line."""
    made = run("signing-key", "create", *options)
    monkeypatch.setenv("NIGHTSHIFT_SIGNING_KEY", Path(file).read_text())
    return made.stdout


def test_a_key_is_made_once_is_private_and_only_its_public_half_is_shown(world: World, monkeypatch) -> None:
    before = os.umask(0)
    try:
        made = run("signing-key", "create")
    finally:
        os.umask(before)
    file = Path(".nightshift/signing.key")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["signing.key"]
    key = own_key({"NIGHTSHIFT_SIGNING_KEY": file.read_text()})
    assert key is not None
    assert Trust(made.stdout).read()[0] == key.public
    assert key.secret not in made.output
    with pytest.raises(NightshiftError, match="is there already"):
        run("signing-key", "create")
    assert file.read_text().strip() == key.secret
    monkeypatch.setenv("NIGHTSHIFT_SIGNING_KEY", key.secret)
    shown = run("signing-key", "show")
    assert shown.stdout.strip() == str(key.public)
    assert key.public.id in shown.output
    assert key.secret not in shown.output


def test_a_release_is_signed_by_name_and_show_and_releases_say_by_whom(world: World, monkeypatch) -> None:
    digest, other = world.publish(0), world.publish(1)
    line = create(monkeypatch)
    (said,) = json.loads(run("sign", "toy", digest[:8], "--json").stdout)
    assert (said["digest"], said["signed"]) == (digest, True)
    assert "was signed before" in run("sign", "toy", digest[:8]).stdout
    rows = {row["digest"]: row for row in json.loads(run("releases", "--json").stdout)}
    assert (rows[digest]["signed_by"], rows[digest]["signed"]) == ([said["key"]], True)
    assert (rows[other]["signed_by"], rows[other]["signed"]) == ([], False)
    assert run("releases").stdout.count("signed") == 1
    shown = json.loads(run("show", digest[:8], "--json").stdout)["signers"]
    assert shown == [{"key": said["key"], "valid": True, "trusted": None}]
    Path("trusted_keys").write_text(f"{SigningKey.new().public}\n")
    assert "not trusted here" in run("show", digest[:8]).stdout
    assert "signed" not in run("releases").stdout
    Path("trusted_keys").write_text(line)
    assert f"signed with {said['key']}, trusted" in run("show", digest[:8]).stdout
    place = f"releases/toy/{digest}/manifest.{said['key']}.sig"
    world.store.put(place, world.store.get(place).replace(b"toy", b"boy"))
    assert f"signed with {said['key']}: not valid" in run("show", digest[:8]).stdout
    assert "signed" not in run("releases").stdout


def test_a_change_of_keys_signs_again_what_the_old_one_signed_and_nothing_else(world: World, monkeypatch) -> None:
    signed, unsigned, theirs = world.publish(0), world.publish(1), world.publish(2)
    Path("trusted_keys").write_text(create(monkeypatch))
    run("sign", "toy", signed)
    create(monkeypatch, "--file", "theirs.key", file="theirs.key")
    run("sign", "toy", theirs)
    create(monkeypatch, "--file", "new.key", file="new.key")
    (said,) = json.loads(run("sign", "--signed-by", "trusted_keys", "--json").stdout)
    assert said["digest"] == signed
    assert [len(world.registry.signatures("toy", each)) for each in (signed, unsigned, theirs)] == [2, 0, 1]


def test_wrong_use_is_named(world: World, monkeypatch) -> None:
    digest = world.publish(0)
    with pytest.raises(NightshiftError, match="no key to sign with") as raised:
        run("sign", "toy", digest)
    assert raised.value.exit_code == 2
    with pytest.raises(NightshiftError, match="no key is set"):
        run("signing-key", "show")
    create(monkeypatch)
    for arguments in ([], ["toy"], ["toy", digest, "--signed-by", "trusted_keys"]):
        with pytest.raises(NightshiftError, match="nothing says what to sign"):
            run("sign", *arguments)
