"""rollback, predict and serve as a person types them, against a real endpoint process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from PIL import Image

from nightshift.releases.errors import ReleaseCorrupt
from nightshift.releases.ledger import Ledger
from nightshift.releases.promotion import promote
from tests.releases.make import LABELS
from tests.serving.world import KEY, Endpoint, World, free_port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Endpoint]]:
    world = World(tmp_path_factory.mktemp("verbs"))
    with world.endpoint() as endpoint:
        endpoint.wait_alive()
        yield world, endpoint


def nightshift(running: tuple[World, Endpoint], *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    world, endpoint = running
    settings = {
        "NIGHTSHIFT_REGISTRY": world.store.url,
        "NIGHTSHIFT_ENDPOINTS": endpoint.url,
        "NIGHTSHIFT_ENDPOINT_KEY": KEY,
        "HTTP_PROXY": "http://127.0.0.1:9",  # loopback never goes through a person's proxy
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "nightshift.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=world.folder,
        check=False,
        env={**os.environ, **settings, **environment},
    )


@pytest.fixture
def model(running: tuple[World, Endpoint]) -> tuple[str, str, str]:
    """A model with two champions one after the other: its name, the earlier digest, the one that serves."""
    world, endpoint = running
    name = f"m-{uuid4().hex[:8]}"
    first, second = world.publish(0, model=name), world.publish(1, model=name)
    world.order(first, "proven", model=name)
    world.order(second, "proven", model=name)
    endpoint.refresh()
    endpoint.wait_serving(second, name)
    return name, first, second


def test_rollback_makes_the_champion_before_serve_again_and_proves_it(running, model) -> None:
    name, first, second = model
    done = nightshift(running, "rollback", name, "--reason", "cats became dogs", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["digest"]) == ("proven", first)
    assert (answer["order"]["reason"], answer["order"]["previous"]) == ("cats became dogs", second)
    assert answer["order"]["evidence"]["verdict"] == "pass"
    assert running[1].of(name)["serving"] == first
    none_left = nightshift(running, "rollback", name, "--reason", "further")
    assert none_left.returncode == 1
    assert "no earlier champion" in none_left.stderr
    back = nightshift(running, "rollback", name, "--to", second[:10], "--reason", "they were dogs")
    assert back.returncode == 0
    assert f"proven {name} {second[:12]}" in back.stdout


def test_rollback_to_a_bad_release_is_refused_with_exit_1_and_the_good_one_serves_on(running, model) -> None:
    name, _, second = model
    bad = running[0].publish(2, model=name, off=0.01)
    done = nightshift(running, "rollback", name, "--to", bad[:12], "--reason", "a try")
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert "golden request 1" in done.stdout
    running[1].wait_serving(second, name)


def test_rollback_without_an_endpoint_names_the_setting(running, model) -> None:
    done = nightshift(running, "rollback", model[0], "--reason", "r", NIGHTSHIFT_ENDPOINTS="")
    assert done.returncode == 1
    assert "NIGHTSHIFT_ENDPOINTS" in done.stdout


def test_an_old_entry_that_is_damaged_is_named_and_stops_no_person_but_a_night(running, model, monkeypatch) -> None:
    name, first, second = model
    store, key = running[0].store, f"ledger/{name}/orders/00000001.json"
    store.put(key, store.get(key)[:-9])
    unnamed = nightshift(running, "rollback", name, "--reason", "to what is damaged")
    assert unnamed.returncode == 1
    assert key in unnamed.stderr
    for sequence, words in ((3, ("promote", name, second)), (4, ("rollback", name, "--to", first))):
        done = nightshift(running, *words, "--reason", "r", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["order"]["sequence"] == sequence
        assert done.stderr.count("warning: ") == 1
        assert key in done.stderr
    settings = {"endpoints": [running[1].url], "who": "night", "reason": "r", "evidence": {}, "deadline_s": 9}
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", KEY)
    with pytest.raises(ReleaseCorrupt, match=key):
        promote(running[0].registry, Ledger(store), name, second, what="deploy", fence=first, **settings)


def test_rollback_needs_a_reason(running, model) -> None:
    assert nightshift(running, "rollback", model[0]).returncode == 2
    assert nightshift(running, "rollback", model[0], "--reason", " ").returncode == 2


def test_promote_forces_a_release_that_did_not_pass_and_its_verdict_stands_in_the_order(running, model) -> None:
    name, _, second = model
    failed = running[0].publish(3, model=name, verdict="fail")
    done = nightshift(running, "promote", name, failed[:9], "--reason", "checked by hand", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["digest"]) == ("proven", failed)
    assert (answer["order"]["what"], answer["order"]["reason"]) == ("promote", "checked by hand")
    assert (answer["order"]["evidence"]["verdict"], answer["order"]["previous"]) == ("fail", second)
    assert running[1].of(name)["serving"] == failed


def test_promote_of_a_bad_release_in_a_named_registry_is_refused_with_exit_1(running, model) -> None:
    name, _, second = model
    bad = running[0].publish(4, model=name, off=0.01)
    named = ["--registry", running[0].store.url]
    done = nightshift(running, "promote", name, bad[:12], "--reason", "a try", *named, NIGHTSHIFT_REGISTRY="")
    assert done.returncode == 1
    assert "golden request 1" in done.stdout
    running[1].wait_serving(second, name)


def test_promote_needs_a_reason_and_a_known_release(running, model) -> None:
    name, first, _ = model
    assert nightshift(running, "promote", name, first).returncode == 2
    assert nightshift(running, "promote", name, first, "--reason", " ").returncode == 2
    unknown = nightshift(running, "promote", name, "abcdef", "--reason", "r")
    assert unknown.returncode == 1
    assert "nightshift releases" in unknown.stderr


def test_predict_turns_pictures_of_any_size_into_labels_and_probabilities(running, model) -> None:
    name, _, second = model
    folder = running[0].folder
    Image.new("RGB", (4, 4), (200, 10, 10)).save(folder / "small.png")
    Image.new("L", (64, 48), 128).save(folder / "large gray.jpg")
    done = nightshift(running, "predict", name, "small.png", "large gray.jpg", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["digest"] == second
    assert [each["file"] for each in answer["predictions"]] == ["small.png", "large gray.jpg"]
    small = answer["predictions"][0]
    body = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": [200, 10, 10] * 16}
    direct = running[1].infer(name, inputs=[body]).json()["outputs"][0]["data"]
    assert small["probabilities"] == pytest.approx(dict(zip(LABELS, direct, strict=True)))
    assert small["label"] == LABELS[direct.index(max(direct))]
    text = nightshift(running, "predict", name, "small.png").stdout
    assert small["label"] in text
    assert second[:12] in text


def test_predict_golden_compares_with_the_releases_own_answers(running, model) -> None:
    done = nightshift(running, "predict", model[0], "--golden")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 golden requests agree" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["MODEL"], 2, "give image files, texts, a row, or --golden"),
        (["MODEL", "nothing.png"], 1, "there is no file nothing.png"),
        (["MODEL", "text.png"], 1, "text.png cannot be read as an image"),
        (["nobody", "text.png"], 1, "no model 'nobody'"),
        (["MODEL", "text.png", "--url", "http://127.0.0.1:9"], 1, "no endpoint answers at http://127.0.0.1:9"),
    ],
)
def test_predict_says_what_is_wrong_and_what_to_do(running, model, arguments, code, words) -> None:
    (running[0].folder / "text.png").write_text("no image")
    done = nightshift(running, "predict", *[model[0] if each == "MODEL" else each for each in arguments])
    assert done.returncode == code
    assert words in done.stderr.replace("\n", " ")
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_without_a_registry_names_the_setting_and_with_a_bad_one_the_forms(running, tmp_path: Path) -> None:
    done = nightshift(running, "serve", "--port", str(free_port()), NIGHTSHIFT_REGISTRY="")
    assert done.returncode == 2
    assert "no registry is set" in done.stderr
    done = nightshift(running, "serve", "--registry", "ftp://x", "--port", str(free_port()))
    assert done.returncode == 1
    assert "ftp://x" in done.stderr
    assert "Traceback" not in done.stderr
