"""The landing zone on a real S3 server: read with the worker's keys, and one clear sentence when it is away."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nightshift.stack.processes import Processes
from pipelines.datasets.landing import Bucket, Folder, LandedFile, LandingError, open_landing
from pipelines.ingest import ingest
from tests.conftest import S3, make_s3
from tests.pipelines.small import checkout, digests, land_day, parquet, table

NIGHT = date(2026, 1, 31)


def put_day(s3: Any, prefix: str, day: str, first: int) -> None:
    for name, rows in {"train": range(first, first + 40), "test": range(first + 40, first + 60)}.items():
        key, split = f"{prefix}/date={day}/{name}.parquet", "test" if name == "test" else None
        s3.client("admin").put_object(Bucket="nightshift-landing", Key=key, Body=parquet(table(rows, split)))


def use(s3: Any, monkeypatch: pytest.MonkeyPatch, identity: str = "worker") -> None:
    for name, value in s3.environment(identity).items():
        monkeypatch.setenv(name, value)


def test_a_prefix_is_listed_and_read_with_keys_that_may_only_read(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    use(s3, monkeypatch)
    put_day(s3, "listing", "2026-01-02", 0)
    admin = s3.client("admin")
    admin.put_object(Bucket=s3.landing, Key="listing/date=2026-01-01/", Body=b"")
    admin.put_object(Bucket=s3.landing, Key="listing/date=2026-01-02/cat/a b+ü.png", Body=b"x")
    admin.put_object(Bucket=s3.landing, Key="listing/other/a.txt", Body=b"x")
    landing = open_landing("s3://nightshift-landing/listing/")
    assert isinstance(landing, Bucket)
    listing = landing.list()
    assert list(listing.days) == ["2026-01-01", "2026-01-02"]
    assert listing.days["2026-01-01"] == []
    assert [file.name for file in listing.days["2026-01-02"]] == ["cat/a b+ü.png", "test.parquet", "train.parquet"]
    assert listing.strange == ["other"]
    assert landing.read("2026-01-02", "cat/a b+ü.png") == b"x"


def test_a_folder_and_a_bucket_with_the_same_files_give_the_same_partitions(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(s3, monkeypatch)
    put_day(s3, "same", "2026-01-01", 0)
    land_day(tmp_path / "landing", "2026-01-01", 0)
    one = checkout(tmp_path / "one", "s3://nightshift-landing/same")
    two = checkout(tmp_path / "two", str(tmp_path / "landing"))
    (bucket,), (folder,) = ingest("small", NIGHT, [], one)["taken"], ingest("small", NIGHT, [], two)["taken"]
    # `landed` goes by names, sizes and etags, so that a day is known again without being read: each source has its own.
    assert bucket | {"landed": ""} == folder | {"landed": ""}
    assert digests(one / "data/small") == digests(two / "data/small")
    # Again, and with nothing new nothing is read: the listing is enough.
    monkeypatch.setattr(Bucket, "read", lambda *_: pytest.fail("a known file was read"))
    assert ingest("small", NIGHT, [], one)["changed"] == []


def test_a_server_that_is_away_gives_one_sentence_with_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    root = checkout(tmp_path / "checkout", "s3://nightshift-landing/away")
    with pytest.raises(LandingError) as raised:
        ingest("small", NIGHT, [], root)
    said = str(raised.value)
    assert "s3://nightshift-landing/away" in said
    assert "http://127.0.0.1:9 does not answer" in said
    assert "make up" in said
    assert "\n" not in said
    assert digests(root / "data") == {}


def test_a_server_that_dies_in_the_middle_loses_nothing_and_the_next_run_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes, server = Processes(tmp_path), make_s3(tmp_path)
    server.start(processes)
    try:
        use(server, monkeypatch)
        put_day(server, "dies", "2026-01-01", 0)
        root = checkout(tmp_path / "checkout", "s3://nightshift-landing/dies")
        ingest("small", NIGHT, [], root)
        before = digests(root / "data")
        for n, day in enumerate(("2026-01-02", "2026-01-03")):
            put_day(server, "dies", day, 100 + 100 * n)
        read = Bucket.read

        def dies(self: Bucket, day: str, name: str) -> bytes:
            if day == "2026-01-03":
                processes.stop("s3")
            return read(self, day, name)

        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "read", dies)
            with pytest.raises(LandingError, match="does not answer"):
                ingest("small", NIGHT, [], root)
        assert digests(root / "data") == before
        server.start(processes)
        report = ingest("small", NIGHT, [], root)
        assert [day["date"] for day in report["taken"]] == ["2026-01-02", "2026-01-03"]
        assert report["rows"] == 180
    finally:
        processes.stop("s3")


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("s3://nightshift-nowhere/x", None, "nightshift-nowhere"),
        ("s3://nightshift-landing/x", "not-a-key", "AWS_ACCESS_KEY_ID"),
    ],
    ids=["no such bucket", "wrong key"],
)
def test_a_refusal_names_what_was_asked_and_the_next_step(
    s3: S3, monkeypatch: pytest.MonkeyPatch, url: str, key: str | None, words: str
) -> None:
    use(s3, monkeypatch, "admin")
    if key:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    with pytest.raises(LandingError, match=words) as raised:
        open_landing(url).list()
    assert url in str(raised.value)
    assert s3.url in str(raised.value)


def test_a_file_that_is_gone_since_it_was_listed_is_named(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    use(s3, monkeypatch)
    with pytest.raises(LandingError, match=r"date=2026-01-01/gone.parquet is gone since it was listed"):
        open_landing("s3://nightshift-landing/gone").read("2026-01-01", "gone.parquet")


def test_a_folder_is_listed_by_day_and_what_is_on_its_way_is_not_seen(tmp_path: Path) -> None:
    for name in (
        "date=2026-01-01/a/b.png",
        "date=2026-01-01/.c",
        "_tmp/date=2026-01-02/x",
        "date=x/y",
        "date=2026-01-03",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12")
    listing = Folder(tmp_path).list()
    stamp = str((tmp_path / "date=2026-01-01/a/b.png").stat().st_mtime_ns)
    assert listing.days == {"2026-01-01": [LandedFile("a/b.png", 2, stamp)]}
    assert listing.strange == ["date=2026-01-03", "date=x"]
