"""Personal data: what is found, what ingest does to it, and that it gets no further."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.datasets import personal
from pipelines.ingest import ingest, main
from pipelines.params.records import LIKELY
from pipelines.prepare import prepare
from pipelines.validate import validate
from tests.pipelines.small import digests, parquet
from tests.pipelines.small import land as put
from tests.pipelines.tables import COLUMNS, as_csv, checkout, land, table

NIGHT = date(2026, 1, 31)
SECRET = "a secret of this test"

# Numbers that schemes and registries give out as examples.
IS_PERSONAL = {
    "write to Jane.Doe+x@example.co.uk, please": "e-mail address",
    "müller@büro.example": "e-mail address",
    "DE89 3704 0044 0532 0130 00": "IBAN",
    "paid to GB29NWBK60161331926819.": "IBAN",
    "4111 1111 1111 1111": "card number",
    "amex 378282246310005.": "card number",
    "5555-5555-5555-4444": "card number",
    "call +49 170 1234567!": "phone number",
    "+49 170 55501002": "phone number",
    "0170 1234567": "phone number",
    "(030) 1234567": "phone number",
    "(212) 555-1234": "phone number",
    "from 192.168.0.1": "IP address",
    "2001:db8::1 said": "IP address",
}
IS_NOT = [
    "",
    "on 01.02.2026 or 2026-01-02 12:30:45, 12.5 of them",
    "4111 1111 1111 1112",
    "GB28NWBK60161331926819",
    "order 12345678",
    "0.123456789",
    "version 1.2.3.4.5",
    "std::vector::size",
    "ISBN 978-3-16-148410-0",
    "a @ b",
    "256.256.256.256",
]


def found(text: str) -> list[str]:
    (lines,) = personal.scan({"note": pa.array([text])}, 1).to_pylist()
    return (lines or "").splitlines()


@pytest.mark.parametrize(("text", "kind"), IS_PERSONAL.items())
def test_what_looks_like_personal_data_is_found_by_its_kind(text: str, kind: str) -> None:
    assert found(text) == [f"note: {kind}"]


@pytest.mark.parametrize("text", IS_NOT)
def test_what_only_resembles_it_is_not(text: str) -> None:
    assert found(text) == []


def test_every_kind_that_is_looked_for_is_one_that_validation_tells() -> None:
    assert set(personal.LIKE) == set(LIKELY) == set(IS_PERSONAL.values())


def test_a_column_is_hashed_masked_or_redacted() -> None:
    texts = pa.array(["Jane Doe, +1 212-555-1234", None, "jane@example.org", "Jane Doe, +1 212-555-1234"])
    hashed = personal.protect(texts, "hash", b"key").to_pylist()
    assert hashed[0] == hashed[3] != hashed[2]
    assert hashed[1] is None
    assert len(hashed[0]) == 32
    assert hashed != personal.protect(texts, "hash", b"another key").to_pylist()
    assert personal.protect(texts, "mask", b"").to_pylist()[::2] == ["xxxx xxx, +0 000-000-0000", "xxxx@xxxxxxx.xxx"]
    assert personal.protect(texts, "redact", b"").to_pylist()[:3:2] == ["Jane Doe, [phone number]", "[e-mail address]"]
    assert personal.protect(texts, "keep", b"") is texts


# Through ingest


NAMES = [f"Jane Doe {n}" for n in range(200)]
MAILS = [f"jane.doe.{n}@example.org" for n in range(200)]
PHONES = [f"+49 170 55501{n:03}" for n in range(200)]
RECORDS: dict[str, Any] = {
    "key": "id",
    "columns": COLUMNS | {"email": "category", "name": "text"},
    "attributes": ["phone"],
    "personal": {"id": "hash", "email": "hash", "name": "mask", "phone": "mask", "note": "redact", "iban": "drop"},
}


def people(**columns: Any) -> dict[str, Any]:
    notes = [f"reach me at {mail}" for mail in MAILS]
    ids = [f"person-{n:03}" for n in range(200)]
    iban = ["DE89 3704 0044 0532 0130 00"] * 200
    return {"id": ids, "email": MAILS, "name": NAMES, "phone": PHONES, "note": notes, "iban": iban} | columns


def test_what_is_personal_is_in_nothing_that_ingest_validate_and_prepare_write(
    tmp_path: Path, landing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(personal.SECRET, SECRET)
    land(landing, "2026-01-01", 0, **people())
    # And where it lies in a wrong place: no reason of the quarantine quotes a cell.
    wrong = table(0, 20, **{name: values[:20] for name, values in people(age=NAMES, income=MAILS).items()})
    put(landing, "2026-01-01", {"shifted.csv": as_csv(wrong), "headless.csv": as_csv(wrong).partition(b"\n")[2]})
    root = checkout(tmp_path / "checkout", landing, records=RECORDS, validate={"max_quarantined": 0.5})
    monkeypatch.chdir(root)
    assert main(["small", "--until", "2026-01-31", "--report", "report.json"]) == 0
    assert validate("small", root)["verdict"] == "pass"
    prepare("small", root)

    row = pq.read_table(root / "data/small/date=2026-01-01.parquet").to_pylist()[0]
    assert row["note"] == "reach me at [e-mail address]"
    assert row["name"].startswith("xxxx xxx 0")
    assert row["attribute.phone"] == "+00 000 00000000"
    written = digests(root / "artifacts") | digests(root / "data") | {"report": (root / "report.json").read_bytes()}
    said = b"".join(written.values()) + capsys.readouterr().out.encode()
    for value in (*NAMES[:20], *MAILS[:20], *PHONES[:20], "person-0", "DE89", SECRET):
        assert value.encode() not in said
    # Parquet is compressed: its cells are read too.
    for name in written:
        if name.endswith(".parquet"):
            text = json.dumps(pq.read_table(next(root.rglob(name))).to_pylist(), default=str)
            assert not any(word in text for word in ("Jane", "jane", "55501", "person-", "3704 0044")), name


def test_a_persons_hash_is_the_same_on_every_day_and_folder(
    tmp_path: Path, landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(personal.SECRET, SECRET)
    for day in ("2026-01-01", "2026-01-02"):
        land(landing, day, 0, **people())
    one, other = (checkout(tmp_path / name, landing, records=RECORDS) for name in ("one", "other"))
    for root in (one, other):
        ingest("small", NIGHT, [], root)
    assert digests(one / "data") == digests(other / "data")
    first, second = (pq.read_table(one / f"data/small/date=2026-01-0{n}.parquet")["email"] for n in (1, 2))
    assert first == second


def test_without_the_secret_or_with_another_nothing_is_taken(
    tmp_path: Path, landing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(personal.SECRET, raising=False)
    land(landing, "2026-01-01", 0, **people())
    root = checkout(tmp_path / "checkout", landing, records=RECORDS)
    monkeypatch.chdir(root)
    assert main(["small", "--until", "2026-01-31"]) == 1
    assert "records.personal hashes a column, and NIGHTSHIFT_PERSONAL_SECRET is not set" in capsys.readouterr().err
    assert not list(root.glob("data/**/*.parquet"))

    monkeypatch.setenv(personal.SECRET, SECRET)
    assert main(["small", "--until", "2026-01-31"]) == 0
    land(landing, "2026-01-02", 1000, **people())
    before = digests(root / "data")
    monkeypatch.setenv(personal.SECRET, "another")
    assert main(["small", "--until", "2026-01-31"]) == 1
    assert "is not the secret with which 2026-01-01 and 0 more day(s) were hashed" in capsys.readouterr().err
    assert digests(root / "data") == before
    assert SECRET.encode() not in b"".join(before.values())


def test_likely_personal_data_warns_with_column_day_and_count_and_never_the_value(
    tmp_path: Path, landing: Path
) -> None:
    land(landing, "2026-01-01", 0)
    notes = [f"customer {n:05}" + (f", {MAILS[n]}, {PHONES[n]}" if n < 3 else "") for n in range(200)]
    countries = ["de"] * 199 + ["jane.doe@example.org"]
    land(landing, "2026-01-02", 1000, note=notes, country=countries)
    asked = {"columns": {"country": {"values": ["de", "fr", "us"]}}}
    root = checkout(tmp_path / "checkout", landing, validate=asked)
    ingest("small", NIGHT, [], root)
    said = {item["expectation"]: item["message"] for item in validate("small", root)["failed"]}
    for kind, count in (("e-mail address", 3), ("phone number", 3)):
        name = f"There is no likely {kind} in note"
        assert said[name] == f"{name}: 2026-01-02 has {count}"
    name = "There is no likely e-mail address in country"
    assert said[name] == f"{name}: 2026-01-02 has 1"
    written = b"".join(digests(root / "artifacts").values())
    assert b"jane.doe" not in written
    assert b"55501" not in written
    assert b"customers.parquet#" in written, "which records they are is said"

    params = (
        (root / "params.yaml").read_text().replace("columns:\n        age: number", "columns:\n        age: number")
    )
    assert params


def test_a_column_that_is_meant_to_hold_it_does_not_warn(tmp_path: Path, landing: Path) -> None:
    land(landing, "2026-01-01", 0, note=MAILS)
    root = checkout(tmp_path / "checkout", landing, records={"personal": {"note": "keep"}})
    ingest("small", NIGHT, [], root)
    assert validate("small", root)["failed"] == []


def test_attributes_of_images_are_protected_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.pipelines import small

    monkeypatch.setenv(personal.SECRET, SECRET)
    root = small.checkout(tmp_path / "checkout", str(tmp_path / "landing"))
    text = (root / "params.yaml").read_text()
    new = "records:\n      attributes: [patient]\n      personal: {patient: hash}\n"
    (root / "params.yaml").write_text(text.replace("records:\n", new, 1))
    put(tmp_path / "landing", "2026-01-01", {"a.parquet": parquet(small.table(range(20), patient=NAMES[:20]))})
    ingest("small", NIGHT, [], root)
    said = pq.read_table(root / "data/small/date=2026-01-01.parquet")["attribute.patient"].to_pylist()
    assert len(set(said)) == 20
    assert not any("Jane" in value for value in said)
