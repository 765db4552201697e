"""Airflow's API when Airflow is in trouble: what is asked again, how often, and what a person is told in the end."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nightshift.errors import NightshiftError
from nightshift.stack import runs
from nightshift.stack.runs import Airflow, Run

LOCKED = {  # as Airflow 3.3.2 says that its SQLite was locked
    "detail": {
        "reason": "Database error",
        "statement": "hidden",
        "orig_error": "hidden",
        "message": "Check logs for more details - look for ID DOE945Ve",
    }
}
RUNS = "/api/v2/dags/ingest_mnist/dagRuns"


class Api:
    """An api-server that gives these answers to whom it knows, the last one for ever; None hangs up."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any] | None] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.token, self.password = "first", "secret"

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, Any] | None:
        if path == "/auth/token":
            known = body["password"] == self.password
            return (201, {"access_token": self.token}) if known else (401, {"detail": "Invalid credentials"})
        if token != f"Bearer {self.token}":
            return 401, {"detail": "Token Expired"}
        self.asked.append((method, path, body))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def airflow(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length", 0)))
            path, token = self.path.partition("?")[0], self.headers.get("authorization", "")
            answer = api.answer(self.command, path, token, json.loads(sent) if sent else None)
            if answer is None:
                self.close_connection = True
                return
            content = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(runs, "PATIENCE", (0.01, 0.01, 0.01))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Airflow(f"http://127.0.0.1:{server.server_port}", "admin", "secret")
        server.shutdown()


@pytest.mark.parametrize("trouble", [(500, LOCKED), (503, {}), None], ids=["locked", "unavailable", "hangs up"])
def test_what_is_read_is_asked_again(api: Api, airflow: Airflow, trouble: tuple[int, Any] | None) -> None:
    api.answers = [trouble, trouble, (200, {"state": "running"})]
    assert airflow.state(Run("ingest_mnist", "r")) == "running"
    assert len(api.asked) == 3


def test_when_it_goes_on_the_error_says_airflows_reason_and_where_to_look(api: Api, airflow: Airflow) -> None:
    api.answers = [(500, LOCKED)]
    with pytest.raises(NightshiftError) as stopped:
        airflow.state(Run("ingest_mnist", "r"))
    assert len(api.asked) == 4
    assert stopped.value.message == (
        f"Airflow said 500 to GET {RUNS}/r: Database error: Check logs for more details - look for ID DOE945Ve"
    )
    assert "api-server" in stopped.value.next_step


def test_what_airflow_refuses_is_not_asked_again(api: Api, airflow: Airflow) -> None:
    api.answers = [(404, {"detail": "The Dag with ID: `ingest_mnist` was not found"})]
    with pytest.raises(NightshiftError, match=r"404 to GET .* was not found"):
        airflow.active("ingest_mnist")
    assert len(api.asked) == 1


@pytest.mark.parametrize("trouble", [(500, LOCKED), None], ids=["locked", "hangs up"])
@pytest.mark.parametrize("then", [(200, {}), (409, {"detail": "there is one"})], ids=["not made", "made"])
def test_a_run_with_an_id_is_asked_for_again_and_started_once(
    api: Api, airflow: Airflow, trouble: tuple[int, Any] | None, then: tuple[int, Any]
) -> None:
    api.answers = [trouble, then]
    assert airflow.trigger("ingest_mnist", {"until": None}, "night__1") == Run("ingest_mnist", "night__1")
    assert api.asked == 2 * [
        ("POST", RUNS, {"logical_date": None, "conf": {"until": None}, "dag_run_id": "night__1"}),
    ]


@pytest.mark.parametrize("trouble", [(500, LOCKED), None], ids=["locked", "hangs up"])
def test_a_run_that_airflow_names_is_never_asked_for_twice(
    api: Api, airflow: Airflow, trouble: tuple[int, Any] | None
) -> None:
    api.answers = [trouble]
    with pytest.raises(NightshiftError):
        airflow.trigger("ingest_mnist", {})
    assert len(api.asked) == 1


def test_a_pool_is_made_in_spite_of_a_locked_database(api: Api, airflow: Airflow) -> None:
    api.answers = [(200, {"pools": []}), (500, LOCKED), (201, {})]
    airflow.make_pool("gpu", 2, "two")
    assert [method for method, *_ in api.asked] == ["GET", "POST", "POST"]


def test_a_dag_file_that_is_to_be_read_already_need_not_be_asked_for(api: Api, airflow: Airflow) -> None:
    api.answers = [(500, LOCKED), (409, {"detail": "it waits to be read"})]
    airflow.parse("token")
    assert [method for method, *_ in api.asked] == ["PUT", "PUT"]


def test_the_events_of_a_queued_run_are_none_and_cost_no_new_try(api: Api, airflow: Airflow) -> None:
    api.answers = [(500, "Internal Server Error")]
    assert airflow.started_by(Run("ingest_mnist", "r")) == []
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    "ask",
    [lambda airflow: airflow.state(Run("ingest_mnist", "r")), lambda airflow: airflow.trigger("ingest_mnist", {}).id],
)
def test_a_token_that_has_run_out_is_renewed(api: Api, airflow: Airflow, ask: Callable[[Airflow], str]) -> None:
    api.token = "second"
    api.answers = [(200, {"state": "running", "dag_run_id": "running"})]
    assert ask(airflow) == "running"
    assert len(api.asked) == 1


def test_a_password_that_was_changed_meanwhile_is_named(api: Api, airflow: Airflow) -> None:
    api.token, api.password = "second", "other"
    with pytest.raises(NightshiftError, match="401 to POST /auth/token"):
        airflow.state(Run("ingest_mnist", "r"))


def test_a_task_that_said_nothing_has_an_empty_receipt(api: Api, airflow: Airflow) -> None:
    api.answers = [(404, {"detail": "XCom entry with key: `return_value` not found"})]
    assert airflow.receipt(Run("ingest_mnist", "r"), "ingest") == {}


def test_a_receipt_that_airflow_cannot_give_is_not_taken_for_an_empty_one(api: Api, airflow: Airflow) -> None:
    api.answers = [(500, LOCKED)]
    with pytest.raises(NightshiftError, match="500 to GET"):
        airflow.receipt(Run("ingest_mnist", "r"), "ingest")


def test_events_that_airflow_refuses_to_tell_are_an_error_of_ours(api: Api, airflow: Airflow) -> None:
    api.answers = [(403, {"detail": "Forbidden"})]
    with pytest.raises(NightshiftError, match="403 to GET /api/v2/assets/events: Forbidden"):
        airflow.started_by(Run("ingest_mnist", "r"))
