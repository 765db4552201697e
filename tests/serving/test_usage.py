"""Usage: counted, written by each process for itself, added up, priced."""

import json
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from nightshift.releases.errors import ReleaseError, StoreDenied
from nightshift.releases.store import FolderStore, open_store
from nightshift.serving.usage import Price, Prices, Row, Usage, instance, read, sums
from tests.conftest import S3

TODAY = datetime.now(UTC).date()
LONG_AGO, FAR = date(2000, 1, 1), date(2100, 1, 1)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "served")


def test_each_process_writes_its_own_sums_and_they_add_up(store: FolderStore):
    one, other = Usage(store, "one"), Usage(store, "other")
    for _ in range(3):
        one.count("alice", "m", "v1", 2, 0.5)
    one.count("", "m", "v2", 1, 0.25)
    other.count("alice", "m", "v1", 10, 1.0)
    for usage in (one, other, one):
        usage.flush()
    rows = read(store, LONG_AGO, FAR)
    assert sums(rows, ["key"]) == {
        ("",): Row("", "", "", 1, 1, 0.25),
        ("alice",): Row("alice", "", "", 4, 16, 2.5),
    }
    assert sums(rows, ["model", "version"])[("m", "v1")] == Row("", "m", "v1", 4, 16, 2.5)
    assert sums(rows, [])[()].requests == 5
    one.count("alice", "m", "v1", 1, 0.5)
    one.flush()
    assert sums(read(store, LONG_AGO, FAR), ["key"])[("alice",)] == Row("alice", "", "", 5, 17, 3.0)


def test_only_what_grew_is_written_and_only_the_days_asked_for_are_read(store: FolderStore):
    usage = Usage(store, "one")
    usage.count("a", "m", "v", 1, 0.0)
    usage.flush()
    (written,) = store.list("usage/")
    store.delete(written)
    usage.flush()
    assert store.list("usage/") == []
    usage.count("a", "m", "v", 1, 0.0)
    usage.flush()
    assert len(read(store, LONG_AGO, FAR)) == 1
    assert read(store, LONG_AGO, TODAY - timedelta(days=2)) == []


def test_at_midnight_a_new_day_begins_and_the_old_one_is_kept_no_longer_than_another(
    store, monkeypatch: pytest.MonkeyPatch
):
    usage = Usage(store, "one")
    midnight = 20_000 * 86400.0
    monkeypatch.setattr(time, "time", lambda: midnight - 1)
    usage.count("a", "m", "v", 1, 0.0)
    usage.flush()
    monkeypatch.setattr(time, "time", lambda: midnight + 1)
    usage.count("a", "m", "v", 1, 0.0)
    usage.count("a", "m", "v", 1, 0.0)
    usage.flush()
    assert store.list("usage/") == ["usage/2024-10-03/one.json", "usage/2024-10-04/one.json"]
    assert [row.requests for row in read(store, date(2024, 10, 3), date(2024, 10, 4))] == [1, 2]
    monkeypatch.setattr(time, "time", lambda: midnight - 5)  # the clock was set
    usage.count("a", "m", "v", 1, 0.0)
    usage.flush()
    assert [row.requests for row in read(store, date(2024, 10, 3), date(2024, 10, 4))] == [2, 2]
    monkeypatch.setattr(time, "time", lambda: midnight + 86400)
    usage.count("a", "m", "v", 1, 0.0)
    usage.flush()
    assert len(usage._days) == 2


def test_while_the_store_is_away_sums_are_kept_but_not_for_ever(store, tmp_path: Path, monkeypatch, caplog):
    usage = Usage(store, "one")
    (tmp_path / "served").write_text("no folder")
    for day in range(40):
        monkeypatch.setattr(time, "time", lambda day=day: (20_000 + day) * 86400.0)
        usage.count("a", "m", "v", 1, 0.0)
        with pytest.raises(ReleaseError):
            usage.flush()
    assert len(usage._days) == 32
    assert len([record for record in caplog.records if "is lost" in record.message]) == 8
    (tmp_path / "served").unlink()
    usage.flush()
    assert len(read(store, LONG_AGO, FAR)) == 32


def test_what_others_counted_is_read_back_for_a_quota(store: FolderStore):
    before, now = Usage(store, "before"), Usage(store, "now")
    for usage, times in ((before, 3), (now, 5)):
        for _ in range(times):
            usage.count("a", "m", "v", 1, 0.0)
        usage.count("b", "m", "v", 1, 0.0)
        usage.flush()
    assert sorted(now.of_others(TODAY - timedelta(days=1))) == [
        (before_day := date.fromisoformat(store.list("usage/")[0].split("/")[1]), "a", 3),
        (before_day, "b", 1),
    ]
    before.count("a", "m", "v", 1, 0.0)
    before.flush()
    assert max(count for _, _, count in now.of_others(TODAY - timedelta(days=1))) == 4
    assert list(now.of_others(TODAY + timedelta(days=2))) == []


def test_a_record_that_is_none_is_named(store: FolderStore):
    store.put(f"usage/{TODAY}/bad.json", json.dumps({"format": 1, "rows": [{"key": "a"}]}).encode())
    with pytest.raises(ReleaseError, match=r"bad\.json is no record of usage"):
        read(store, TODAY, TODAY)


def test_a_price_is_of_requests_items_and_seconds():
    row = Row("a", "m", "v", requests=2500, items=10_000, compute_seconds=12.5)
    price = Price(per_1000_requests=Decimal("0.4"), per_1000_items=Decimal("0.1"), per_compute_second=Decimal("0.02"))
    assert price.of(row) == Decimal("1.0") + Decimal("1.0") + Decimal("0.25")
    table = Prices(currency="EUR", prices={"n": price, "*": Price(per_1000_items=Decimal(1))})
    assert table.of(row) == 10
    assert Prices(currency="EUR", prices={"n": price}).of(row) == 0
    with pytest.raises(ValidationError, match="per_1000_request"):
        Prices.model_validate({"currency": "EUR", "prices": {"m": {"per_1000_request": 1}}})


def test_no_two_processes_have_one_name():
    names = {instance() for _ in range(100)}
    assert len(names) == 100
    assert not [name for name in names if "/" in name]


def test_the_endpoint_alone_writes_usage(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def become(identity: str) -> Usage:
        for variable, value in s3.environment(identity).items():
            monkeypatch.setenv(variable, value)
        return Usage(open_store(f"s3://{s3.served}/{tmp_path.name}"), identity)

    endpoint = become("endpoint")
    endpoint.count("a", "m", "v", 1, 0.1)
    endpoint.flush()
    keys = become("keys")
    assert keys.store
    assert [row.requests for row in read(keys.store, LONG_AGO, FAR)] == [1]
    keys.count("a", "m", "v", 1, 0.1)
    with pytest.raises(StoreDenied):
        keys.flush()
