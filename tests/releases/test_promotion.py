"""Order, proof, outcome, with a real endpoint process. Each test has a model of its own on one endpoint."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from nightshift.releases.errors import ReleaseError, ReleaseUnknown
from nightshift.releases.ledger import Canary, Outcome, now
from nightshift.releases.promotion import Result, promote
from nightshift.releases.proof import authority
from nightshift.releases.signing import SigningKey
from tests.serving.world import KEY, Endpoint, World, free_port, wait_for


class Case:
    """One model: publish its releases, promote them as a night or as a person."""

    def __init__(self, world: World, endpoint: Endpoint):
        self.world, self.endpoint = world, endpoint
        self.model = f"m-{uuid4().hex[:8]}"
        self.urls = [endpoint.url]

    def publish(self, seed: int, **settings: Any) -> str:
        return self.world.publish(seed, model=self.model, **settings)

    def order(self, digest: str, state: Any = None, **settings: Any) -> Any:
        return self.world.order(digest, state, model=self.model, **settings)

    def promote(self, digest: str, what: Any = "deploy", fence: str | None = None, **settings: Any) -> Result:
        defaults = {"endpoints": self.urls, "who": "night", "reason": "r", "evidence": {}, "deadline_s": 10}
        return promote(
            self.world.registry,
            self.world.ledger,
            self.model,
            digest,
            what=what,
            fence=fence,
            **{**defaults, **settings},
        )

    def states(self) -> list[str | None]:
        return [outcome and outcome.state for _, outcome in self.world.ledger.history(self.model)]

    def serving(self) -> str | None:
        return self.endpoint.of(self.model).get("serving")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Endpoint]]:
    world = World(tmp_path_factory.mktemp("promotion"))
    with world.endpoint() as endpoint:
        endpoint.wait_alive()
        yield world, endpoint


@pytest.fixture(autouse=True)
def _as_whoever_deploys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", KEY)


@pytest.fixture
def case(running: tuple[World, Endpoint]) -> Case:
    return Case(*running)


def signers(case: Case, digest: str) -> set[str]:
    return set(case.world.registry.signatures(case.model, digest))


def test_what_is_ordered_is_signed_first_and_what_a_rule_stops_is_not(case: Case) -> None:
    key, first, second = SigningKey.new(), case.publish(0), case.publish(1)
    assert case.promote(first, key=key).state == "proven"
    ((order, _),) = case.world.ledger.history(case.model)
    assert order.evidence["signed_by"] == key.public.id
    assert signers(case, first) == {key.public.id}
    assert case.promote(second, fence=None, key=key).state == "fenced"
    assert signers(case, second) == set()
    assert case.promote(second, what="promote").state == "proven"  # without a key
    assert "signed_by" not in case.world.ledger.newest(case.model).evidence
    again = SigningKey.new()
    assert case.promote(second, what="promote", key=again).state == "proven"
    assert signers(case, second) == {again.public.id}


def test_an_endpoint_that_does_not_trust_the_signature_refuses_and_the_next_night_may_order_it_signed(
    tmp_path: Path,
) -> None:
    world, key = World(tmp_path), SigningKey.new()
    (tmp_path / "trusted_keys").write_text(f"{key.public}\n")
    endpoint = world.endpoint(options=["--trust", str(tmp_path / "trusted_keys")]).start()
    try:
        endpoint.wait_alive()
        case = Case(world, endpoint)
        first, second = case.publish(0), case.publish(1)
        assert case.promote(first, key=key).state == "proven"
        for signing_key in (None, SigningKey.new()):
            result = case.promote(second, fence=first, key=signing_key)
            assert (result.state, result.exit_code) == ("refused", 1)
            assert "it has no signature of a trusted key" in result.reason
            assert case.serving() == first
        assert [outcome.fault for _, outcome in world.ledger.history(case.model)] == [None, "endpoint", "endpoint"]
        assert case.promote(second, fence=first, key=key).state == "proven"
    finally:
        endpoint.stop()
        endpoint.client.close()


@pytest.mark.parametrize("what", ["deploy", "promote", "rollback"])
def test_without_the_endpoints_key_nothing_is_ordered_and_it_is_said_at_once(
    case: Case, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", "nsk_of-somebody-else")
    digest, began = case.publish(0), time.monotonic()
    for settings in ({}, {"canary": Canary(weight=0.1)}, {"key": SigningKey.new()}):
        with pytest.raises(ReleaseError, match="NIGHTSHIFT_ENDPOINT_KEY") as stopped:
            case.promote(digest, what, deadline_s=60, **settings)
        assert case.endpoint.url in stopped.value.message
    monkeypatch.delenv("NIGHTSHIFT_ENDPOINT_KEY")
    with pytest.raises(ReleaseError, match="none in NIGHTSHIFT_ENDPOINT_KEY"):
        case.promote(digest, what, deadline_s=60)
    assert time.monotonic() - began < 30
    assert case.states() == []
    assert signers(case, digest) == set()


def test_a_key_that_is_taken_away_during_the_proof_ends_it_at_once_by_a_fault_of_the_endpoint(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = case.publish(0)
    monkeypatch.setattr("nightshift.releases.promotion._demand_key", lambda *_: None)
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", "nsk_of-somebody-else")
    began = time.monotonic()
    result = case.promote(digest, "promote", deadline_s=60)
    assert time.monotonic() - began < 30
    assert result.state == "refused"
    ((_, outcome),) = case.world.ledger.history(case.model)
    assert outcome.fault == "endpoint"


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_golden_request_that_is_not_let_in_says_nothing_about_the_release(case: Case, status: int) -> None:
    def turn_away(answer: httpx.Response) -> None:
        answer.status_code, answer._content = status, b"<html>no</html>"

    digest = case.publish(0)
    with tampering_proxy(case.endpoint.url, case.model, turn_away) as (url, _):
        assert case.promote(digest, endpoints=[url], deadline_s=60).state == "refused"
    ((_, outcome),) = case.world.ledger.history(case.model)
    assert outcome.fault == "endpoint"
    assert case.promote(digest).state == "proven", "the next night may order it"


@pytest.mark.parametrize("status", [408, 502, 503, 504])
def test_an_endpoint_that_has_too_much_to_do_is_asked_again_as_long_as_there_is_time(case: Case, status: int) -> None:
    asked: list[int] = []

    def crowded(answer: httpx.Response) -> None:
        asked.append(answer.status_code)
        if len(asked) < 4:
            answer.status_code, answer._content = status, b'{"error": "ask again"}'

    with tampering_proxy(case.endpoint.url, case.model, crowded) as (url, _):
        assert case.promote(case.publish(0), endpoints=[url]).state == "proven"
    assert len(asked) > 4


def test_an_endpoint_that_has_too_much_to_do_to_the_end_bars_no_release(case: Case) -> None:
    def crowded(answer: httpx.Response) -> None:
        answer.status_code, answer._content = 503, b'{"error": "there is no memory"}'

    digest = case.publish(0)
    with tampering_proxy(case.endpoint.url, case.model, crowded) as (url, _):
        result = case.promote(digest, endpoints=[url], deadline_s=0.5)
    assert result.state == "refused"
    assert result.reason == f"{url} answers golden request 1 with 503: there is no memory at the deadline"
    ((_, outcome),) = case.world.ledger.history(case.model)
    assert outcome.fault == "endpoint"
    assert case.promote(digest).state == "proven", "the next night may order it"


def test_an_endpoint_that_answers_by_a_newer_order_by_now_refuses_no_older_one(case: Case) -> None:
    first, second = case.publish(0), case.publish(1)

    def overtaken(answer: httpx.Response) -> None:
        if len(case.states()) == 1:
            case.order(second)
        answer.status_code, answer._content = 404, b'{"error": "it serves another version"}'

    with tampering_proxy(case.endpoint.url, case.model, overtaken) as (url, _):
        assert case.promote(first, endpoints=[url]).state == "superseded"


def test_an_endpoint_that_does_not_answer_yet_is_named_once_and_waited_for(case: Case) -> None:
    digest, away, said = case.publish(0), f"http://127.0.0.1:{free_port()}", []
    case.promote(digest, "promote", endpoints=[away], deadline_s=0.5, say=said.append)
    (line,) = [line for line in said if "it is waited for" in line]
    assert line.startswith(f"{away} does not answer (")
    assert len(case.states()) == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://127.0.0.1:port", "localhost:8000"])
def test_nothing_is_ordered_where_an_endpoints_url_is_none(case: Case, url: str) -> None:
    with pytest.raises(ReleaseError, match="is no URL of an endpoint"):
        case.promote(case.publish(0), "promote", endpoints=[url])
    assert case.states() == []


def test_an_authority_that_is_not_there_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.pem").write_text("nothing\n")
    for name in ("absent.pem", "empty.pem"):
        monkeypatch.setenv("NIGHTSHIFT_CA", str(tmp_path / name))
        with pytest.raises(ReleaseError, match=f"{name} of NIGHTSHIFT_CA cannot be used"):
            authority()


def test_a_nights_first_deploy_is_proven_and_serves(case: Case) -> None:
    digest = case.publish(0)
    result = case.promote(digest, evidence={"run": "2026-01-01"})
    assert (result.state, result.exit_code) == ("proven", 0)
    assert case.serving() == digest
    ((order, outcome),) = case.world.ledger.history(case.model)
    assert (order.who, order.what, order.evidence) == ("night", "deploy", {"verdict": "pass", "run": "2026-01-01"})
    assert outcome.replicas == (case.endpoint.url,)
    assert "2 golden requests" in outcome.reason


def test_what_serves_already_is_not_ordered_again_whatever_its_release_is_called(case: Case) -> None:
    first = case.publish(0)
    case.promote(first)
    again = case.publish(0, card="only the card differs")
    assert again != first
    result = case.promote(again, fence=first)
    assert (result.state, result.order, result.exit_code) == ("unchanged", None, 0)
    assert case.promote(first, fence="0" * 64).state == "unchanged", "before the fence: it is the wanted one already"
    assert case.states() == ["proven"]


def test_a_night_whose_opponent_no_longer_serves_is_fenced(case: Case) -> None:
    first, second, third = (case.publish(seed) for seed in range(3))
    case.promote(first)
    assert case.promote(second, fence=None).state == "fenced", "the gate met nobody, but somebody serves"
    case.promote(second, fence=first)
    result = case.promote(third, fence=first)
    assert (result.state, result.exit_code) == ("fenced", 3)
    assert first[:12] in result.reason
    assert second[:12] in result.reason
    assert case.serving() == second
    assert case.states() == ["proven", "proven"]


def test_the_fence_goes_by_the_model_not_by_the_releases_name(case: Case) -> None:
    first, same_model, second = case.publish(0), case.publish(0, card="another"), case.publish(1)
    case.promote(first)
    assert case.promote(second, fence=same_model).state == "proven"


def test_wrong_answers_are_refused_and_the_champion_serves_on(case: Case) -> None:
    first, bad = case.publish(0), case.publish(1, off=0.01)
    case.promote(first)
    result = case.promote(bad, fence=first)
    assert (result.state, result.exit_code) == ("refused", 1)
    assert "golden request 1" in result.reason
    assert case.states() == ["proven", "refused"]
    wait_for(lambda: case.serving() == first)


def test_what_was_refused_is_barred_for_nights_and_free_for_persons(case: Case) -> None:
    first, bad = case.publish(0), case.publish(1, off=0.01)
    case.promote(first)
    case.promote(bad, fence=first)
    result = case.promote(bad, fence=first)
    assert (result.state, result.order, result.exit_code) == ("barred", None, 3)
    assert "order 2" in result.reason
    assert case.promote(bad, "promote").state == "refused"
    assert case.states() == ["proven", "refused", "refused"]


def test_what_a_person_rolled_back_from_no_night_orders_again(case: Case) -> None:
    first, second = case.publish(0), case.publish(1)
    case.promote(first)
    case.promote(second, fence=first)
    result = case.promote(first, "rollback", who="kim", reason="cats became dogs")
    assert result.state == "proven"
    assert case.serving() == first
    again = case.promote(case.publish(1, card="the same model in a new release"), fence=first)
    assert again.state == "barred"
    assert "kim rolled back" in again.reason
    assert case.promote(second, "promote", who="kim").state == "proven"


def test_a_person_always_puts_an_order_even_for_what_serves(case: Case) -> None:
    digest = case.publish(0)
    case.promote(digest)
    assert case.promote(digest, "rollback").order.sequence == 2


def test_without_endpoints_nothing_is_ordered_and_the_setting_is_named(case: Case) -> None:
    digest = case.publish(0)
    for urls in ([], [""]):
        result = case.promote(digest, endpoints=urls)
        assert (result.state, result.order) == ("refused", None)
        assert "NIGHTSHIFT_ENDPOINTS" in result.reason
    assert case.states() == []


def test_a_night_orders_nothing_while_an_endpoint_is_away_and_succeeds_later(case: Case) -> None:
    digest = case.publish(0)
    away = f"http://127.0.0.1:{free_port()}"
    result = case.promote(digest, endpoints=[case.endpoint.url, away], deadline_s=0.5)
    assert (result.state, result.order) == ("refused", None)
    assert away in result.reason
    assert case.states() == []
    assert case.promote(digest).state == "proven"


def test_a_person_whose_endpoint_is_away_gets_a_refusal_that_bars_no_night(case: Case) -> None:
    digest = case.publish(0)
    away = f"http://127.0.0.1:{free_port()}"
    result = case.promote(digest, "promote", endpoints=[away], deadline_s=0.5)
    assert (result.state, result.order.sequence) == ("refused", 1)
    assert away in result.reason
    assert case.promote(digest).state == "proven"


def test_a_release_that_this_registry_lacks_is_an_error_that_orders_nothing(case: Case) -> None:
    with pytest.raises(ReleaseUnknown, match=case.model):
        case.promote("0" * 64)
    assert case.states() == []


def test_an_order_that_its_dead_writer_left_is_continued_by_the_same_night(case: Case) -> None:
    digest = case.publish(0)
    case.order(digest, what="deploy")
    result = case.promote(digest)
    assert (result.state, result.order.sequence) == ("proven", 1)
    assert case.states() == ["proven"]


@pytest.mark.parametrize(("off", "state"), [(0.0, "proven"), (0.01, "refused")])
def test_an_order_past_its_deadline_is_settled_by_the_next_writer_as_it_deserves(
    case: Case, off: float, state: str
) -> None:
    first, left, third = case.publish(0), case.publish(1, off=off), case.publish(2)
    case.promote(first)
    case.world.ledger.order(
        case.model,
        digest=left,
        model_digest=case.world.registry.manifest(case.model, left).model_digest,
        who="a night that died",
        what="deploy",
        reason="r",
        evidence={},
        deadline=timedelta(seconds=-1),
    )
    fenced_or_proven = case.promote(third, fence=first)
    assert case.states()[:2] == ["proven", state]
    assert fenced_or_proven.state == ("fenced" if state == "proven" else "proven")


def test_a_persons_order_supersedes_one_on_its_way_and_that_writer_says_so(case: Case) -> None:
    first, slow, wanted = case.publish(0), case.publish(1), case.publish(2)
    case.promote(first)
    away = f"http://127.0.0.1:{free_port()}"
    results: list[Result] = []
    waiting = threading.Thread(
        target=lambda: results.append(case.promote(slow, "promote", endpoints=[case.endpoint.url, away]))
    )
    waiting.start()
    wait_for(lambda: len(case.states()) == 2)
    assert case.promote(wanted, "rollback").state == "proven"
    waiting.join(5)
    assert results, "it did not wait for its own deadline"
    assert (results[0].state, results[0].exit_code) == ("superseded", 0)
    assert "order 3" in results[0].reason
    assert case.states() == ["proven", "superseded", "proven"]
    assert case.serving() == wanted


def test_a_replica_that_left_for_a_newer_order_has_not_refused_the_one_before(case: Case) -> None:
    digest, newer = case.publish(0), case.publish(1)

    def leave(answer: httpx.Response) -> None:
        if len(case.states()) == 1:
            case.order(newer)
        answer.status_code, answer._content = 404, b'{"error": "it has no such version"}'

    with tampering_proxy(case.endpoint.url, "/versions/", leave) as (url, _):
        result = case.promote(digest, endpoints=[url])
    assert (result.state, result.exit_code) == ("superseded", 0), result
    assert case.states() == ["superseded", None], "so no night is barred from it"


def test_a_persons_order_supersedes_one_whose_writer_died(case: Case) -> None:
    first, left, wanted = case.publish(0), case.publish(1), case.publish(2)
    case.promote(first)
    case.order(left)
    assert case.promote(wanted, "promote").state == "proven"
    assert case.states() == ["proven", "superseded", "proven"]


def test_one_replica_that_does_not_prove_it_takes_the_release_back_from_the_others(case: Case) -> None:
    first, second = case.publish(0), case.publish(1)
    case.promote(first)
    away = f"http://127.0.0.1:{free_port()}"
    result = case.promote(second, "promote", endpoints=[case.endpoint.url, away], deadline_s=1)
    assert result.state == "refused"
    wait_for(lambda: case.serving() == first)


def wrong_output(answer: httpx.Response) -> None:
    body = answer.json()
    body["outputs"][0]["data"][0] += 0.01
    answer._content = json.dumps(body).encode()


def wrong_digest(answer: httpx.Response) -> None:
    answer.headers["nightshift-digest"] = "0" * 64


def failing(answer: httpx.Response) -> None:
    answer.status_code, answer._content = 500, b'{"error": "out of memory"}'


@pytest.mark.parametrize(
    ("path", "tamper", "words"),
    [
        ("/versions/", wrong_output, "disagrees with golden request 1"),
        ("/versions/", wrong_digest, "as 000000"),
        ("/versions/", failing, "with 500: out of memory"),
        ("/models/m-", wrong_digest, "as 000000"),
    ],
    ids=["other values", "another digest", "an error", "the plain path"],
)
def test_a_replica_that_says_it_serves_and_answers_otherwise_refuses_the_order(
    case: Case, path: str, tamper: Callable[[httpx.Response], None], words: str
) -> None:
    """A proxy stands for a replica with other memory, other hardware, or a cache in front of it."""
    digest = case.publish(0)
    with tampering_proxy(case.endpoint.url, path, tamper) as (url, asked):
        result = case.promote(digest, endpoints=[url])
    assert result.state == "refused"
    assert words in result.reason
    assert url in result.reason
    assert asked[2] == "/refresh", "it is told of the order, once it is known to be alive"
    assert asked[-1] == "/refresh", "and of the refusal"


@contextmanager
def tampering_proxy(
    target: str, path: str, tamper: Callable[[httpx.Response], None]
) -> Iterator[tuple[str, list[str]]]:
    """Forwards to the endpoint, and changes the answers to inference requests whose path contains ``path``.

    Gives its URL and the paths that it was asked for.
    """
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {"authorization": self.headers.get("authorization", "")}
            answer = httpx.request(self.command, target + self.path, content=body, headers=headers)
            if path in self.path and self.path.endswith("/infer"):
                tamper(answer)
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            if "nightshift-digest" in answer.headers:
                self.send_header("nightshift-digest", answer.headers["nightshift-digest"])
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_night_waits_for_a_persons_order_on_its_way_and_is_then_fenced(case: Case) -> None:
    first, persons, nights = case.publish(0), case.publish(1), case.publish(2)
    case.promote(first)
    pending = case.order(persons)
    results: list[Result] = []
    night = threading.Thread(target=lambda: results.append(case.promote(nights, fence=first)))
    night.start()
    time.sleep(0.7)
    assert case.states() == ["proven", None], "it did not order"
    case.world.ledger.settle(pending, Outcome(state="proven", reason="by its writer", at=now()))
    night.join()
    assert results[0].state == "fenced"
    assert case.states() == ["proven", "proven"]


def test_two_attempts_of_one_night_share_one_order_even_when_the_first_dies(case: Case) -> None:
    """The second attempt is already waiting for another order when the first puts its own and dies."""
    first, persons, nights = case.publish(0), case.publish(1, off=0.01), case.publish(2)
    case.promote(first)
    pending = case.order(persons)
    results: list[Result] = []
    attempt = threading.Thread(target=lambda: results.append(case.promote(nights, fence=first)), daemon=True)
    attempt.start()
    time.sleep(0.7)
    case.order(nights, what="deploy")
    case.world.ledger.settle(pending, Outcome(state="superseded", reason="superseded by order 3", at=now()))
    attempt.join(10)
    assert [(result.state, result.order.sequence) for result in results] == [("proven", 3)]


def test_nights_that_race_give_one_champion_and_the_rest_fenced(case: Case) -> None:
    first = case.publish(0)
    case.promote(first)
    challengers = [case.publish(seed) for seed in (1, 2, 3)]
    results: list[Result] = []
    nights = [
        threading.Thread(target=lambda digest=digest: results.append(case.promote(digest, fence=first)))
        for digest in challengers
    ]
    for night in nights:
        night.start()
    for night in nights:
        night.join()
    assert sorted(result.state for result in results) == ["fenced", "fenced", "proven"]
    assert case.states() == ["proven", "proven"]


def test_a_server_that_is_no_endpoint_proves_nothing(case: Case, s3) -> None:
    digest = case.publish(0)
    result = case.promote(digest, "promote", endpoints=[s3.url], deadline_s=0.5)
    assert result.state == "refused"
    assert s3.url in result.reason
