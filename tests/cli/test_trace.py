"""trace, as typed: a release by its digest, an answer by its request's id. (The chain itself: tests of the engine.)"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.errors import NightshiftError
from nightshift.releases.store import open_store
from nightshift.serving import sample_files
from nightshift.serving.sample_files import Kept, Row
from tests.serving.world import World

RUNNER = CliRunner()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", world.store.url)
    monkeypatch.delenv("NIGHTSHIFT_WORK", raising=False)
    return world


def sampled(world: World, digest: str, *, off: float = 0.0, leave_out: bool = False) -> str:
    """A request's id, in a file of samples as an endpoint writes it beside a registry that is a folder."""
    image = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    program = world.folder / "registry" / "releases" / "toy" / digest / "model.onnx"
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    (answer,) = session.run(["probabilities"], {"image": image})
    now = time.time()
    row = Row(
        time=now,
        request_id=f"request-{off}-{leave_out}",
        model="toy",
        digest=digest,
        role="champion",
        key=None,
        protocol="rest",
        verb="infer",
        items=1,
        inputs=[Kept("image", "UINT8", image.shape, None if leave_out else image)],
        outputs=[Kept("probabilities", "FP32", answer.shape, answer + np.float32(off))],
        status=200,
        milliseconds=1.0,
        error=None,
    )
    store = open_store(f"{world.store.url}-served")
    store.put_new(sample_files.key(now, now, f"i{off}{leave_out}"), sample_files.write([row]))
    return row.request_id


def trace(*arguments: str) -> tuple[int, Any]:
    result = RUNNER.invoke(app, ["trace", *arguments, "--json"], catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


def test_a_release_is_traced_by_its_first_characters_and_a_broken_link_is_named(world: World) -> None:
    digest = world.publish(0)
    world.order(digest, "proven", who="kim")
    code, found = trace(digest[:8])
    assert (code, found[0]["name"], found[0]["state"]) == (0, "release", "whole")
    assert found[1]["facts"]["orders"][0]["who"] == "kim"
    key = f"releases/toy/{digest}/decision.json"
    world.store.put(key, world.store.get(key)[:-1])
    result = RUNNER.invoke(app, ["trace", digest[:8]], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert f"releases/toy/{digest}/decision.json has" in result.stdout
    assert "the first broken link is release" in result.stdout


def test_an_answer_is_found_by_its_request_and_computed_again(world: World) -> None:
    digest = world.publish(0)
    code, (answer, release, *_) = trace(sampled(world, digest))
    assert (code, answer["name"], answer["state"]) == (0, "answer", "whole")
    assert "it agrees" in answer["said"]
    assert (answer["facts"]["digest"], release["facts"]["digest"]) == (digest, digest)


def test_an_answer_that_the_release_would_not_give_is_a_broken_link(world: World) -> None:
    code, (answer, *_) = trace(sampled(world, world.publish(0), off=0.01))
    assert (code, answer["state"]) == (1, "broken")
    assert "probabilities is another" in answer["said"]


def test_an_answer_whose_input_was_not_kept_is_unchecked(world: World) -> None:
    code, (answer, *_) = trace(sampled(world, world.publish(0), leave_out=True))
    assert (code, answer["state"]) == (0, "unchecked")


def test_what_is_neither_release_nor_sample_says_what_to_type(world: World) -> None:
    with pytest.raises(NightshiftError, match="no sample") as caught:
        trace("01JD2Z6E4T")
    assert "what-served" in caught.value.next_step
