"""An endpoint that demands signatures: real processes, real keys, a registry that anybody can write."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from nightshift.releases.signing import SigningKey, sign
from tests.releases.make import make_release
from tests.serving.world import ADMIN, World, free_port, wait_for


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.new()


@pytest.fixture
def trusted(tmp_path: Path, key: SigningKey) -> Path:
    file = tmp_path / "trusted_keys"
    file.write_text(f"{key.public} the team\n")
    return file


def test_a_release_that_no_trusted_key_signed_is_refused_and_the_old_one_goes_on(
    world: World, start, key: SigningKey, trusted: Path
) -> None:
    first, second = world.publish(0), world.publish(1)
    sign(world.registry, "toy", first, key)
    world.order(first, "proven")
    endpoint = start(options=["--trust", str(trusted)])
    endpoint.wait_serving(first)
    assert endpoint.of()["signed_by"] == key.public.id
    # Whoever writes the registry moves the signature, signs with a key of their own, and orders it.
    name = f"manifest.{key.public.id}.sig"
    world.store.put(f"releases/toy/{second}/{name}", world.store.get(f"releases/toy/{first}/{name}"))
    theirs = SigningKey.new()
    sign(world.registry, "toy", second, theirs)
    world.order(second, "proven")
    endpoint.refresh()
    reason = endpoint.wait_refused(second)
    assert f"that of {key.public.id} is not valid" in reason
    assert f"that of {theirs.public.id} is not trusted here" in reason
    assert endpoint.of()["refused"]["kind"] == "unsigned"
    assert endpoint.infer().headers["nightshift-digest"] == first
    assert endpoint.infer(version=second[:12]).status_code == 404
    assert f"order 2 ({second[:12]}) refused, {first[:12]} goes on: it has no signature" in endpoint.log.read_text()
    found = endpoint.client.get("/metrics", headers=ADMIN).text
    assert re.search(r'^nightshift_releases_refused_total\{model="toy",reason="unsigned"\} 1\.0$', found, re.MULTILINE)
    # Signed by the team, and ordered again, it serves.
    world.store.delete(f"releases/toy/{second}/{name}")
    sign(world.registry, "toy", second, key)
    world.order(second)
    endpoint.refresh()
    endpoint.wait_serving(second)
    assert endpoint.infer().headers["nightshift-digest"] == second


def test_started_again_it_serves_signed_copies_without_the_registry_and_no_key_that_was_taken_out(
    world: World, start, key: SigningKey, trusted: Path
) -> None:
    digest = world.publish(0)
    sign(world.registry, "toy", digest, key)
    world.order(digest, "proven")
    endpoint = start(options=["--trust", str(trusted)])
    endpoint.wait_serving(digest)
    endpoint.stop(signal.SIGKILL)
    away = world.store.root.rename(world.folder / "away")
    again = start(options=["--trust", str(trusted)])
    again.wait_serving(digest)
    again.stop()
    away.rename(world.store.root)
    trusted.write_text(f"{SigningKey.new().public}\n")
    strict = start(options=["--trust", str(trusted)])
    strict.wait_refused(digest)
    assert strict.infer().status_code == 404


def test_a_key_that_comes_is_read_without_a_restart_and_a_file_that_is_broken_speaks_against_no_release(
    world: World, start, key: SigningKey, trusted: Path
) -> None:
    first, second, new = world.publish(0), world.publish(1), SigningKey.new()
    sign(world.registry, "toy", first, key)
    sign(world.registry, "toy", second, new)
    world.order(first, "proven")
    endpoint = start(options=["--trust", str(trusted), "--processes", "2"])
    endpoint.wait_serving(first)
    text = trusted.read_text()
    trusted.write_text("nsp_broken\n")
    world.order(second)
    problem = wait_for(lambda: endpoint.status()["problem"])
    assert "line 1 is no public key" in problem
    assert (endpoint.of()["serving"], endpoint.of()["refused"]) == (first, None)
    trusted.write_text(f"{text}{new.public} the new one\n")
    wait_for(lambda: all(each["models"]["toy"]["serving"] == second for each in endpoint.status()["processes"]))
    assert {each["models"]["toy"]["signed_by"] for each in endpoint.status()["processes"]} == {new.public.id}


def test_from_the_environment_and_nothing_there_is_no_wish_to_trust_everybody(
    world: World, start, key: SigningKey
) -> None:
    signed, unsigned = world.publish(0), world.publish(1, model="other")
    sign(world.registry, "toy", signed, key)
    world.order(signed, "proven")
    world.order(unsigned, "proven", model="other")
    endpoint = start({"NIGHTSHIFT_TRUSTED_KEYS": f"{SigningKey.new().public},{key.public}"})
    endpoint.wait_serving(signed)
    endpoint.wait_refused(unsigned, "other")
    for keys in ("", ",", key.secret):
        wrong = start({"NIGHTSHIFT_TRUSTED_KEYS": keys})
        assert wrong.process.wait(60) == 2
        assert "NIGHTSHIFT_TRUSTED_KEYS" in wrong.log.read_text()
        assert key.secret not in wrong.log.read_text()


def test_a_folder_of_releases_is_held_to_it_too(tmp_path: Path, world: World, key: SigningKey, trusted: Path) -> None:
    stick = tmp_path / "stick"
    digest = make_release(stick / "toy")
    make_release(stick / "other", model="other")
    world.registry.publish(stick / "toy")
    sign(world.registry, "toy", digest, key)
    shutil.copy(world.store.root / f"releases/toy/{digest}/manifest.{key.public.id}.sig", stick / "toy")
    port = free_port()
    command = [sys.executable, "-m", "nightshift.cli.main", "serve", "--releases", str(stick), "--port", str(port)]
    log, temporary = tmp_path / "log", tmp_path / "temporary"
    temporary.mkdir()
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--trust", str(trusted)],
            stdout=file,
            stderr=file,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
    try:

        def ready(model: str) -> int:
            try:
                url = f"http://127.0.0.1:{port}/v2/models/{model}/ready"
                return httpx.get(url, timeout=5, trust_env=False).status_code
            except httpx.HTTPError:
                return 0

        wait_for(lambda: ready("toy") == 200)
        wait_for(lambda: "other: order 1" in log.read_text())
        assert "refused, nothing serves: it has no signature of a trusted key" in log.read_text()
        assert ready("other") == 404
    finally:
        process.terminate()
        process.wait(60)
    assert [path.name for path in temporary.iterdir() if "-registry" in path.name or "-releases" in path.name] == []
