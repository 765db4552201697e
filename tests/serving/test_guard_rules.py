"""What the guard lets in and what it refuses, rule by rule, without a server around it."""

import itertools
import threading
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightshift.releases.store import FolderStore
from nightshift.serving import audit as audits
from nightshift.serving import guard as guards
from nightshift.serving.call import Call
from nightshift.serving.guard import Guard
from nightshift.serving.keys import Keys, digest
from nightshift.serving.tensors import RequestError
from nightshift.serving.usage import Row, read, sums
from tests.serving.world import wait_for

OWN = "nsk_the-stacks-own"


class Desk:
    """A guard at one address, its stores, and somebody who knocks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.keys = Keys(FolderStore(folder / "registry-keys"))
        self.served = FolderStore(folder / "registry-served")
        self._numbers = itertools.count()
        monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY_SHA256", digest(OWN))

    def open(self, host: str = "127.0.0.1", **settings: Any) -> Guard:
        guard = guards.make(str(self.folder / "registry"), host, 8000, self.folder / "copies", **settings)
        guard.keyring.step()
        guard.flush()
        return guard

    def create(self, name: str = "a", **settings: Any) -> str:
        return self.keys.create(name, by="me", **settings)[0]

    def ask(
        self, guard: Guard, need: str = "infer", key: str | None = None, model: str | None = "m", **headers: str
    ) -> Call:
        """The call that was let in; ``authorization`` and other headers by keyword, '_' for '-'."""
        call = Call(f"r-{next(self._numbers)}", "rest", "infer", time.perf_counter())
        call.model = SimpleNamespace(name=model, version="v") if model else None  # type: ignore[assignment]
        sent = {"host": "localhost:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if key:
            sent["x-api-key"] = key
        guard.enter(call, need, sent.get, model)
        return call

    def refused(self, guard: Guard, need: str = "infer", key: str | None = None, **more: Any) -> RequestError:
        with pytest.raises(RequestError) as caught:
            self.ask(guard, need, key, **more)
        assert key is None or key not in caught.value.message, "a key is never echoed"
        return caught.value

    def end(self, guard: Guard, call: Call, status: int = 200, items: int = 1) -> None:
        call.status, call.items, call.computed = status, items, 0.5
        guard.watch(call)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def test_on_loopback_without_a_key_made_models_are_open_and_the_rest_is_closed(desk: Desk):
    guard = desk.open()
    assert desk.ask(guard).key is None
    assert desk.ask(guard, model=None).key is None
    assert desk.ask(guard, "open", host="anything").key is None
    for need in ("metrics", "admin"):
        refusal = desk.refused(guard, need)
        assert refusal.status == 401
        assert f"--scope {need}" in refusal.message
        assert ("www-authenticate", 'Bearer realm="nightshift"') in refusal.headers
    assert desk.ask(guard, key="of-something-else").key is None, "who needs no key may send any"


def test_the_stacks_own_key_opens_all_and_requires_none_of_others(desk: Desk):
    guard = desk.open()
    for need in ("infer", "metrics", "admin"):
        assert desk.ask(guard, need, OWN).key == "stack"
    assert desk.ask(guard).key is None


def test_the_first_key_made_closes_the_models_to_who_has_none(desk: Desk):
    guard = desk.open()
    key = desk.create()
    guard.keyring.step()
    assert desk.ask(guard, key=key).key == "a"
    assert desk.refused(guard).status == 401
    assert desk.refused(guard, model=None).status == 401
    assert desk.refused(guard, key="nsk_wrong").status == 401
    assert desk.ask(guard, "open").key is None
    assert desk.ask(guard, key=OWN).key == "stack"


def test_at_another_address_keys_are_required_from_the_start(desk: Desk):
    guard = desk.open("0.0.0.0")
    assert desk.refused(guard).status == 401
    assert desk.ask(guard, key=OWN).key == "stack"


def test_a_key_is_sent_as_bearer_or_as_x_api_key(desk: Desk):
    guard, key = desk.open(), desk.create()
    guard.keyring.step()
    assert desk.ask(guard, authorization=f"Bearer {key}").key == "a"
    assert desk.ask(guard, authorization=f"bearer   {key} ").key == "a"
    assert desk.ask(guard, key=key, authorization="Basic eDp5").key == "a"
    for wrong in ("Bearer", f"Basic {key}", key):
        assert desk.refused(guard, authorization=wrong).status == 401


def test_a_scope_that_is_missing_is_named(desk: Desk):
    guard, key = desk.open(), desk.create(scopes=("predict:m",))
    guard.keyring.step()
    assert desk.ask(guard, key=key).key == "a"
    assert desk.ask(guard, key=key, model=None).key == "a"
    for need, model, scope in (
        ("infer", "other", "predict:other"),
        ("admin", None, "admin"),
        ("metrics", None, "metrics"),
    ):
        refusal = desk.refused(guard, need, key, model=model)
        assert refusal.status == 403
        assert f"no scope {scope}" in refusal.message
        assert "predict:m" in refusal.message


def test_a_revoked_key_opens_nothing_from_the_next_look_on(desk: Desk):
    guard, key = desk.open(), desk.create()
    desk.create("b")
    guard.keyring.step()
    desk.keys.revoke("a", by="me", reason="left")
    assert desk.ask(guard, key=key).key == "a"
    guard.keyring.step()
    refusal = desk.refused(guard, key=key)
    assert (refusal.status, "was revoked" in refusal.message) == (401, True)


def test_revoking_the_last_key_opens_nothing_again(desk: Desk):
    guard = desk.open()
    desk.create()
    desk.keys.revoke("a", by="me", reason="left")
    guard.keyring.step()
    assert desk.refused(guard).status == 401


def test_a_key_expires_at_its_second(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    guard, key = desk.open(), desk.create(expires="1d")
    guard.keyring.step()
    expires = desk.keys.read()[0]["a"].expires
    assert expires

    class Clock(datetime):
        at = expires - timedelta(milliseconds=1)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return cls.at

    monkeypatch.setattr(guards, "datetime", Clock)
    assert desk.ask(guard, key=key).key == "a"
    Clock.at = expires
    refusal = desk.refused(guard, key=key)
    assert (refusal.status, "expired at" in refusal.message) == (401, True)


def test_nobody_is_let_in_before_it_is_known_who_may(desk: Desk):
    guard = guards.make(str(desk.folder / "registry"), "127.0.0.1", 8000, desk.folder / "copies")
    refusal = desk.refused(guard)
    assert (refusal.status, list(refusal.headers)) == (503, [("retry-after", "1")])
    assert desk.ask(guard, "open").key is None
    assert desk.ask(guard, "admin", OWN).key == "stack", "whoever deploys can see what is wrong"


@pytest.mark.parametrize(
    ("address", "named", "strange"),
    [
        (
            "127.0.0.1",
            ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "ml.example.org", "localhost."],
            ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.7:8000", "a@localhost@b", "[", ""],
        ),
        ("0.0.0.0", ["10.0.0.7:8000", "[fe80::1]:8000", "localhost"], ["evil.example", "10.0.0.7.evil.example"]),
        ("10.0.0.7", ["10.0.0.7:8000", "localhost"], ["10.0.0.8"]),
    ],
)
def test_a_host_that_the_endpoint_was_not_told_is_refused(
    desk: Desk, address: str, named: list[str], strange: list[str]
):
    guard = desk.open(address, hosts=["ML.example.org"])
    for host in named * 2:
        assert desk.ask(guard, key=OWN, host=host).key == "stack"
    for host in strange * 2:
        refusal = desk.refused(guard, key=OWN, host=host)
        assert refusal.status == 421, host
        assert "--allow-host" in refusal.message


def test_grpc_and_health_ask_for_no_host(desk: Desk):
    guard = desk.open()
    desk.ask(guard, "open", host="10.1.2.3")
    call = Call("r", "grpc", "infer", 0.0)
    guard.enter(call, "infer", {}.get)


def test_a_page_of_another_origin_gets_nothing_unless_it_was_named(desk: Desk):
    closed, opened = desk.open(), desk.open(origins=["https://app.example.org"])
    page = {"origin": "https://app.example.org"}.get
    assert closed.hosts.cors(page) == []
    assert ("access-control-allow-origin", "https://app.example.org") in opened.hosts.cors(page)
    assert opened.hosts.cors({"origin": "https://evil.example"}.get) == [("vary", "origin")]
    assert desk.refused(closed, "admin", OWN, origin="https://app.example.org").status == 403
    assert desk.ask(opened, "admin", OWN, origin="https://app.example.org").key == "stack"
    assert desk.ask(closed, "admin", OWN, origin="http://localhost:8000").key == "stack", "its own page"


def test_a_rate_is_kept_and_says_when_to_come_again(desk: Desk):
    guard, key = desk.open(), desk.create(rate="2/m")
    guard.keyring.step()
    desk.ask(guard, key=key)
    desk.ask(guard, key=key)
    refusal = desk.refused(guard, key=key)
    assert (refusal.status, list(refusal.headers)) == (429, [("retry-after", "30")])
    assert "2/m" in refusal.message
    assert desk.ask(desk.open(), key=OWN).key == "stack"
    assert desk.refused(desk.open(), key=key).status == 429, "another process of the same port shares it"


def test_a_quota_counts_what_was_answered_and_survives_a_restart(desk: Desk):
    guard, key = desk.open(), desk.create(quota="3/month")
    guard.keyring.step()
    guard.flush()
    desk.end(guard, desk.ask(guard, key=key))
    desk.end(guard, desk.ask(guard, key=key), status=400)
    desk.end(guard, desk.ask(guard, key=key))
    guard.keyring.step()
    guard.flush()

    again = desk.open()
    under_way = desk.ask(again, key=key)
    refusal = desk.refused(again, key=key)
    assert refusal.status == 429, "also what is under way counts"
    assert 0 < int(dict(refusal.headers)["retry-after"]) <= 31 * 86400
    assert "3 requests of this month" in refusal.message
    assert desk.ask(again, key=key, model=None).key == "a", "to ask what is there costs nothing"
    desk.end(again, under_way, status=500)
    desk.end(again, desk.ask(again, key=key))
    assert desk.refused(again, key=key).status == 429


def test_who_does_not_take_an_answer_pays_for_it_once_the_model_has_run(desk: Desk):
    guard, key = desk.open(), desk.create(quota="1/day")
    guard.keyring.step()
    guard.flush()
    desk.end(guard, desk.ask(guard, key=key), status=499)
    late = desk.ask(guard, key=key)
    late.batch = 1
    desk.end(guard, late, status=499)
    assert desk.refused(guard, key=key).status == 429
    guard.keyring.step()
    guard.flush()
    found = sums(read(desk.served, date(2000, 1, 1), date(2100, 1, 1)), ["key"])
    assert found[("a",)].requests == 1


def test_what_another_replica_counted_is_seen_at_the_next_writing(desk: Desk):
    one, other, key = desk.open(), desk.open(), desk.create(quota="2/day")
    for guard in (one, other):
        guard.keyring.step()
        guard.flush()
        desk.end(guard, desk.ask(guard, key=key))
    for guard in (one, other, one):
        guard.keyring.step()
        guard.flush()
    assert desk.refused(one, key=key).status == 429
    assert desk.refused(other, key=key).status == 429


def test_what_is_answered_is_counted_for_its_key_model_and_version(desk: Desk):
    guard, key = desk.open(), desk.create()
    guard.keyring.step()
    desk.end(guard, desk.ask(guard, key=key), items=4)
    desk.end(guard, desk.ask(guard, key=key), items=2)
    desk.end(guard, desk.ask(guard, key=key), status=400)
    desk.end(guard, desk.ask(guard, key=key), items=0)
    desk.end(guard, desk.ask(guard, key=OWN))
    guard.keyring.step()
    guard.flush()
    found = sums(read(desk.served, date(2000, 1, 1), date(2100, 1, 1)), ["key", "model", "version"])
    assert found[("a", "m", "v")] == Row("a", "m", "v", 2, 6, 1.0)
    assert found[("stack", "m", "v")].requests == 1
    assert len(found) == 2


def test_administration_and_refused_attempts_are_written_down_without_the_key(desk: Desk):
    guard = desk.open()
    key = desk.create(scopes=("predict",))
    guard.keyring.step()
    desk.refused(guard, "admin", "nsk_guessed-by-somebody")
    desk.refused(guard, "admin", key)
    call = Call("r-refresh", "rest", "refresh", 0.0)
    guard.enter(call, "admin", {"host": "localhost", "x-api-key": OWN}.get)
    guard.keyring.step()
    guard.flush()
    acts = [(act["act"], act["who"], act["outcome"]) for act in audits.read(desk.served, desk.keys.store)]
    assert ("infer", "nobody", "refused: 401") in acts
    assert ("infer", "a", "refused: 403") in acts
    assert ("refresh", "stack", "done") in acts
    assert "guessed" not in str(acts)


def test_a_store_that_is_away_stops_no_request_and_loses_no_count(desk: Desk, tmp_path: Path, caplog):
    guard, key = desk.open(), desk.create()
    guard.keyring.step()
    guard.flush()
    (tmp_path / "registry-served").write_text("no folder")
    desk.end(guard, desk.ask(guard, key=key))
    guard.keyring.step()
    guard.flush()
    assert "wait to be written" in caplog.text
    (tmp_path / "registry-served").unlink()
    guard.keyring.step()
    guard.flush()
    assert len(desk.served.list("usage/")) == 1


def test_stop_writes_what_is_counted(desk: Desk):
    guard = guards.make(str(desk.folder / "registry"), "127.0.0.1", 8000, desk.folder / "copies")
    guard.start()
    wait_for(lambda: guard.keyring.read_once)
    call = Call("r", "rest", "infer", 0.0)
    call.model = SimpleNamespace(name="m", version="v")  # type: ignore[assignment]
    desk.end(guard, call)
    guard.stop()
    assert len(desk.served.list("usage/")) == 1


def test_a_served_store_that_hangs_holds_up_no_revocation(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nightshift.serving.keyring.POLL_S", 0.05)
    hangs, over = threading.Event(), threading.Event()
    guard = guards.make(str(desk.folder / "registry"), "127.0.0.1", 8000, desk.folder / "copies")

    def flush() -> None:
        hangs.set()
        over.wait(120)

    monkeypatch.setattr(guard.usage, "flush", flush)
    key = desk.create()
    guard.start()
    try:
        assert hangs.wait(60)
        wait_for(lambda: guard.ready)
        assert desk.ask(guard, key=key).key == "a"
        desk.keys.revoke("a", by="me", reason="left")
        wait_for(lambda: guard.keyring.find(key)[1])  # type: ignore[index]
        assert desk.refused(guard, key=key).status == 401
    finally:
        over.set()
        guard.stop()


def test_with_keys_that_are_remembered_it_is_ready_at_once(desk: Desk):
    key = desk.create()
    desk.open()
    again = guards.make(str(desk.folder / "registry"), "127.0.0.1", 8000, desk.folder / "copies")
    assert again.ready
    assert desk.ask(again, key=key).key == "a"
