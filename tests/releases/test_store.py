"""Both stores keep the same promises: the folder, and a real S3 server."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from nightshift.releases.errors import ReleaseError, StoreDenied, StoreUnavailable
from nightshift.releases.store import Store, open_store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "folder":
        yield open_store(str(tmp_path / "store"))
        return
    server = request.getfixturevalue("s3")
    for name, value in server.environment("deployer").items():
        monkeypatch.setenv(name, value)
    yield open_store(f"s3://{server.registry}/store-{uuid4().hex}")


def test_what_was_put_is_read_back_and_listed_sorted(store: Store) -> None:
    store.put("b/2", b"two")
    assert store.put_new("b/1", b"one")
    store.put("c", b"")
    assert store.list("b/") == ["b/1", "b/2"]
    assert store.list("") == ["b/1", "b/2", "c"]
    assert store.get("b/1") == b"one"
    assert store.get("c") == b""
    assert store.exists("b/2")


def test_a_prefix_is_characters_and_not_a_folder(store: Store) -> None:
    for key in ("days/10", "days/1", "days/1x/y", "day", "days/2"):
        store.put(key, b"x")
    assert store.list("days/1") == ["days/1", "days/10", "days/1x/y"]
    assert store.list("da") == ["day", "days/1", "days/10", "days/1x/y", "days/2"]
    assert store.list("days/3/") == []


def test_folders_are_the_next_part_of_keys_that_go_on(store: Store) -> None:
    for key in ("days/date=2/1/2", "days/date=1/1", "days/date=1/2", "days/readme", "days2/x/y"):
        store.put(key, b"x")
    assert store.folders("days") == ["date=1", "date=2"]
    assert store.folders("days/date=2") == ["1"]
    assert store.folders("nothing") == []


def test_a_key_has_the_characters_that_it_was_given(store: Store) -> None:
    keys = ["a b", "a%20b", "a+b@c=d:e", "größe", "x#y?z&"]
    for key in keys:
        store.put(f"odd/{key}", key.encode())
    assert store.list("odd/") == sorted(f"odd/{key}" for key in keys)
    assert [store.get(f"odd/{key}").decode() for key in keys] == keys


def test_a_missing_key_is_a_key_error_and_lists_as_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        store.get("nothing/here")
    with pytest.raises(KeyError):
        store.get_file("nothing/here", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert not store.exists("nothing/here")
    assert store.list("nothing/") == []
    store.delete("nothing/here")


def test_put_new_never_overwrites(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"third")
    assert store.put_new("key", b"first")
    assert not store.put_new("key", b"second")
    assert not store.put_new_file("key", tmp_path / "file")
    assert store.get("key") == b"first"


def test_of_many_writers_of_one_key_exactly_one_wins(store: Store) -> None:
    barrier = threading.Barrier(16)

    def write(number: int) -> bool:
        barrier.wait()
        return store.put_new("race", str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    assert store.get("race") == str(won.index(True)).encode()


def test_swap_creates_once_and_replaces_only_what_was_seen(store: Store) -> None:
    first = store.swap("key", b"1", None)
    assert first
    assert store.read("key") == (b"1", first)
    assert store.swap("key", b"x", None) is None
    second = store.swap("key", b"2", first)
    assert second
    assert store.swap("key", b"x", first) is None
    assert store.get("key") == b"2"
    assert store.swap("key", b"2", first) == second, "an answer that was lost is given again"
    store.delete("key")
    assert store.swap("key", b"x", second) is None
    with pytest.raises(KeyError):
        store.read("key")


def test_of_many_swaps_of_one_version_exactly_one_wins(store: Store) -> None:
    version = store.swap("race", b"start", None)
    barrier = threading.Barrier(16)

    def write(number: int) -> str | None:
        barrier.wait()
        return store.swap("race", b"%d" % number, version)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert len([new for new in won if new]) == 1
    number = next(n for n, new in enumerate(won) if new)
    assert store.read("race") == (b"%d" % number, won[number])


def test_a_file_of_many_parts_replaces_the_object_whole(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(20 << 20))  # S3's client cuts what is larger than 8 MiB
    store.put("key", b"before")
    store.put_file("key", tmp_path / "file")
    assert store.get("key") == (tmp_path / "file").read_bytes()


def test_files_travel_whole(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "source").write_bytes(data)
    assert store.put_new_file("big", tmp_path / "source")
    store.get_file("big", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").read_bytes() == data
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["target"]


def test_a_deleted_object_is_gone(store: Store) -> None:
    store.put("key", b"x")
    store.delete("key")
    assert not store.exists("key")
    assert store.put_new("key", b"y")


def test_a_folder_never_lists_a_file_that_is_being_written(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / ".tmp-abc").write_bytes(b"half")
    assert store.list("") == []


@pytest.mark.parametrize("key", ["../escape", "a/../../escape", "/etc/passwd", ""])
def test_a_folder_refuses_keys_that_leave_it(tmp_path: Path, key: str) -> None:
    with pytest.raises(ReleaseError, match="no key"):
        open_store(str(tmp_path / "store")).put(key, b"x")


@pytest.mark.parametrize("url", ["http://somewhere/x", "s3://"])
def test_an_address_that_is_no_store_is_refused_by_name(url: str) -> None:
    with pytest.raises(ReleaseError, match=url):
        open_store(url)


def test_a_store_that_is_away_says_which_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(StoreUnavailable, match=r"s3://nightshift-registry .*127\.0\.0\.1:9") as caught:
        open_store("s3://nightshift-registry").get("x")
    assert "S3 server" in caught.value.next_step


def test_keys_without_the_right_are_denied_by_name(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreDenied, match=s3.registry):
        open_store(f"s3://{s3.registry}").put_new("releases/x", b"x")


def test_a_list_without_the_right_is_denied_and_not_empty(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("endpoint").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreDenied, match="AccessDenied"):
        open_store(f"s3://{s3.work}").list("")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreDenied, match=s3.registry):
        open_store(f"s3://{s3.registry}").list("")


def test_keys_of_a_profile_serve_where_the_environment_has_none(
    s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3.environment("deployer")
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(StoreDenied, match="no keys"):
        open_store(f"s3://{s3.registry}").list("")
    (tmp_path / "credentials").write_text(
        f"[team]\naws_access_key_id={keys['AWS_ACCESS_KEY_ID']}\naws_secret_access_key={keys['AWS_SECRET_ACCESS_KEY']}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "team")
    store = open_store(f"s3://{s3.registry}/store-{uuid4().hex}")
    assert store.put_new("key", b"x")
    assert store.list("") == ["key"]


def test_a_process_forked_after_the_first_use_is_told_and_does_not_hang(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("deployer").items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{s3.registry}/store-{uuid4().hex}")
    store.put("key", b"x")
    child = os.fork()
    if child == 0:
        try:
            open_store(store.url).get("key")
        except ReleaseError as error:
            os._exit(3 if "forked" in error.message else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_authorities_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(ReleaseError, match=r"AWS_CA_BUNDLE.*nowhere\.pem"):
        open_store("s3://bucket").get("x")


def test_who_may_write_is_known_without_a_write(store: Store) -> None:
    store.demand_write()
    assert store.list("") == []


def test_who_may_not_write_is_told_before_writing(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreDenied, match=s3.registry):
        open_store(f"s3://{s3.registry}").demand_write()


def test_a_bucket_that_is_not_there_is_no_missing_key(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("admin").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnavailable, match="no bucket"):
        open_store("s3://nobody-made-this").get("x")
