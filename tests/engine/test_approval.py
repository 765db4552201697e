"""Approval: a person's word on this very release, where workers cannot write it; deploy acts on nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nightshift.engine.approval import body
from nightshift.engine.key import md5
from tests.engine.conftest import World, make
from tests.engine.test_deploy import HERE, finished

AWAY = {"NIGHTSHIFT_ENDPOINTS": "http://127.0.0.1:1"}  # whoever gets so far orders nothing: nobody is there


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, s3: Any) -> World:
    return make(tmp_path_factory.mktemp("approval"), s3, f"approval-{md5(str(tmp_path_factory).encode())}")


@pytest.fixture
def world(bucket: World, request: pytest.FixtureRequest, tmp_path: Path) -> World:
    name = md5(request.node.name.encode())[:8]
    return replace(bucket, work=f"{bucket.work}/{name}", root=tmp_path / "checkout")


def answer(digest: str, *, approved: bool = True, who: str | None = "ann", reason: str | None = None) -> str:
    return json.dumps({"approved": approved, "who": who, "reason": reason, "digest": digest})


def test_nobody_is_asked_about_a_challenger_that_did_not_pass(world: World, tmp_path: Path) -> None:
    finished(world, tmp_path, "fail", policy="approval")
    assert world.engine("approval", "m", *HERE).outcome == "not_asked"
    assert world.engine("deploy", "m", *HERE).outcome == "not_passed"


def test_without_an_answer_nothing_is_deployed_and_with_a_yes_it_is(world: World, tmp_path: Path) -> None:
    digest = finished(world, tmp_path, "pass", policy="approval")
    asked = world.engine("approval", "m", *HERE)
    assert (asked.outcome, asked.receipt["digest"], asked.receipt["hours"]) == ("waiting", digest, 24)
    assert digest[:12] in asked.receipt["subject"]
    said = world.engine("approval", "m", *HERE, "--answer", answer(digest, reason="looks good"))
    assert f"{digest[:12]} approved by ann: looks good" in said.receipt["message"]
    assert world.engine("approval", "m", *HERE).outcome == "done", "who is asked again finds the answer"
    assert world.try_engine("deploy", "m", *HERE, **AWAY).outcome == "refused"  # it tried: the endpoint is away


def test_a_release_that_nobody_was_asked_about_is_not_deployed(world: World, tmp_path: Path) -> None:
    finished(world, tmp_path, "pass", policy="approval")
    ran = world.engine("deploy", "m", *HERE, **AWAY)
    assert (ran.outcome, ran.receipt["order"]) == ("not_approved", None)
    assert "no approval of it is recorded" in ran.receipt["message"]


def test_a_no_stands_and_the_first_answer_counts(world: World, tmp_path: Path) -> None:
    digest = finished(world, tmp_path, "pass", policy="approval")
    world.engine("approval", "m", *HERE, "--answer", answer(digest, approved=False, reason="not on a Friday"))
    late = world.engine("approval", "m", *HERE, "--answer", answer(digest, who="bob"))
    assert "rejected by ann: not on a Friday" in late.receipt["message"]
    ran = world.engine("deploy", "m", *HERE, **AWAY)
    assert (ran.outcome, "rejected by ann" in ran.receipt["message"]) == ("not_approved", True)


def test_when_nobody_answers_in_time_the_champion_stays_and_the_next_run_asks_again(
    world: World, tmp_path: Path
) -> None:
    digest = finished(world, tmp_path, "pass", policy="approval")
    world.engine("approval", "m", *HERE, "--answer", answer(digest, approved=False, who=None))
    ran = world.engine("deploy", "m", *HERE, **AWAY)
    assert (ran.outcome, "nobody answered" in ran.receipt["message"]) == ("not_approved", True)
    assert world.engine("approval", "m", *HERE).outcome == "waiting"


def test_an_answer_about_another_release_is_refused(world: World, tmp_path: Path) -> None:
    finished(world, tmp_path, "pass", policy="approval")
    ran = world.try_engine("approval", "m", *HERE, "--answer", answer("f" * 64))
    assert ran.status == 1
    assert "the answer is about ffffffffffff" in ran.receipt["message"]


def test_with_the_policy_never_only_a_person_serves_it(world: World, tmp_path: Path) -> None:
    finished(world, tmp_path, "pass", policy="never")
    ran = world.engine("deploy", "m", *HERE, **AWAY)
    assert (ran.outcome, "`nightshift promote` serves it" in ran.receipt["message"]) == ("not_asked", True)


def test_the_form_shows_every_criterion_and_text_stays_text() -> None:
    criteria = [{"name": "change", "verdict": "pass", "reason": "better | <script> [x](y)"}]
    text = body("m", "a" * 64, {"opponent": None, "criteria": criteria})
    assert r"| change | pass | better \| &lt;script&gt; \[x\](y) |" in text
