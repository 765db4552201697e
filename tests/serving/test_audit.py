"""The audit log: written by the endpoint, read together with the keys' own record."""

from pathlib import Path

import pytest

from nightshift.releases.errors import ReleaseError
from nightshift.releases.store import FolderStore
from nightshift.serving.audit import Audit, read
from nightshift.serving.keys import Keys


@pytest.fixture
def served(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "served")


def test_acts_of_endpoints_and_of_people_are_one_list_by_time(served: FolderStore, tmp_path: Path):
    keys = Keys(FolderStore(tmp_path / "keys"))
    secret, _ = keys.create("alice", by="me", scopes=("predict", "admin"))
    audit = Audit(served, "one")
    audit.note("refresh", "alice", "done", "r-1")
    audit.flush()
    audit.flush()
    keys.revoke("alice", by="you", reason="left the team")
    acts = read(served, keys.store)
    assert {(act["act"], act["who"]) for act in acts} == {
        ("key alice made: predict, admin", "me"),
        ("refresh", "alice"),
        ("key alice revoked: left the team", "you"),
    }
    assert [act["at"] for act in acts] == sorted(act["at"] for act in acts)
    assert secret not in str(acts)
    assert len(served.list("audit/")) == 1, "nothing new, nothing written"


def test_somebody_who_knocks_without_pause_fills_no_memory_and_is_counted(served: FolderStore, tmp_path: Path):
    audit = Audit(served, "one")
    for number in range(1200):
        audit.note("refresh", "nobody", "refused: 401", f"r-{number}")
    audit.flush()
    acts = read(served, FolderStore(tmp_path / "keys"))
    assert len(acts) == 501
    assert acts[-1]["act"] == "700 more of the like"
    audit.note("refresh", "nobody", "refused: 401", "later")
    audit.flush()
    assert len(read(served, FolderStore(tmp_path / "keys"))) == 502


def test_an_act_of_a_key_is_kept_while_others_knock_without_pause(served: FolderStore, tmp_path: Path):
    audit = Audit(served, "one")
    for number in range(1200):
        audit.note("refresh", "nobody", "refused: 401", f"r-{number}")
        audit.note("status", "alice", "refused: 403", f"a-{number}")
    for number in range(600):
        audit.note("refresh", "bob", "done", f"b-{number}")
    audit.flush()
    acts = read(served, FolderStore(tmp_path / "keys"))
    assert sum(act["who"] == "bob" and act["act"] == "refresh" for act in acts) == 600
    more = {(act["who"], act["outcome"]): act["act"] for act in acts if "more" in act["act"]}
    assert more == {
        ("nobody", "refused"): "700 more of the like",
        ("alice", "refused"): "700 more of the like",
    }
    audit.note("refresh", "nobody", "refused: 401", "later")
    audit.flush()
    assert len(read(served, FolderStore(tmp_path / "keys"))) == len(acts) + 1


def test_while_the_store_is_away_acts_wait(served: FolderStore, tmp_path: Path):
    audit = Audit(served, "one")
    audit.note("refresh", "alice", "done", "r-1")
    (tmp_path / "served").write_text("no folder")
    with pytest.raises(ReleaseError):
        audit.flush()
    (tmp_path / "served").unlink()
    audit.flush()
    assert [act["request"] for act in read(served, FolderStore(tmp_path / "keys"))] == ["r-1"]
