"""What people send becomes the tensors that the program wants, or a sentence; what it answers becomes words."""

import asyncio
import io
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nightshift.releases import manifest as manifests
from nightshift.releases.manifest import Manifest
from nightshift.serving import model, people
from nightshift.serving.tensors import RequestError
from tests.releases import kinds
from tests.releases.make import make_release

RELEASES = {
    "toy": make_release,
    "mood": kinds.text_release,
    "price": kinds.row_release,
    "choice": kinds.packed_release,
    "sum": kinds.tensor_release,
}
HOUSE = {"rooms": 3, "area": 40.5, "color": "red"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, model.LoadedModel]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: model.load(folder / name, name, make(folder / name, model=name)) for name, make in RELEASES.items()}


def asked(one: model.LoadedModel, body: Any, media: str = "application/json") -> list[dict[str, Any]]:
    """The predictions for this body, through the real program."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    arrays, items = people.read(one.manifest, media, data)
    names = [output.name for output in one.manifest.signature.outputs]
    return people.tell(one.manifest, dict(zip(names, one.run(arrays, names), strict=True)), items)


def test_the_kind_is_the_manifests_where_its_tensors_are_of_that_kind(loaded) -> None:
    kinds_ = {name: people.takes(one.manifest) for name, one in loaded.items()}
    assert kinds_ == {"toy": "image", "mood": "text", "price": "row", "choice": "row", "sum": "tensor"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("toy", {"signature": {"inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 4, 4, 3]}]}}),
        ("toy", {"signature": {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 3, 4, 4]}]}}),
        ("toy", {"signature": {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]}}),
        ("mood", {"signature": {"inputs": [{"name": "ids", "datatype": "INT64", "shape": [-1, 128]}]}}),
        ("choice", {"signature": {"inputs": [{"name": "row", "datatype": "FP32", "shape": [-1, 4]}]}}),
        ("price", {"signature": {"inputs": [{"name": "rooms", "datatype": "INT64", "shape": [-1, 1]}]}}),
        ("price", {"input": {"kind": "row"}}),
    ],
)
def test_a_release_whose_tensors_are_of_no_form_takes_tensors(loaded, name: str, changes: dict) -> None:
    value = loaded[name].manifest.model_dump(mode="json")
    for part, change in changes.items():
        value[part] = {**value[part], **change} if part == "signature" else change
    changed = Manifest.model_validate(value)
    assert people.takes(changed) == "tensor"
    with pytest.raises(RequestError, match=f"POST /v2/models/{name}/infer"):
        people.read(changed, "", b"{}")


def test_a_text_is_a_string_an_object_or_a_plain_body_and_many_are_a_list(loaded) -> None:
    mood = loaded["mood"]
    (lovely,) = asked(mood, {"text": "a lovely day"})
    assert lovely["label"] == "good"
    assert [each["label"] for each in lovely["labels"]] == ["good", "bad"]
    assert lovely["labels"][0]["probability"] == pytest.approx(0.9526, abs=1e-4)
    assert asked(mood, "a lovely day") == [lovely]
    assert asked(mood, b"a lovely day", "text/plain; charset=utf-8") == [lovely]
    assert asked(mood, ["a lovely day", {"text": "awful"}])[0] == lovely
    assert asked(mood, ["a lovely day", {"text": "awful"}])[1]["label"] == "bad"


def test_a_row_fills_a_tensor_per_column_or_one_for_all(loaded) -> None:
    assert asked(loaded["price"], HOUSE) == [{"values": {"price": 3 * 100 + 40.5 * 10 + 3}}]
    two = asked(loaded["price"], [HOUSE, {"color": "blue", "area": 21, "rooms": 1}])
    assert [each["values"]["price"] for each in two] == [708.0, 311.0]
    (choice,) = asked(loaded["choice"], HOUSE)
    logits = np.array([1.5, 0.405, 2.0])
    expected = dict(zip(("buy", "wait", "sell"), np.exp(logits) / np.exp(logits).sum(), strict=True))
    assert {each["label"]: each["probability"] for each in choice["labels"]} == pytest.approx(expected, rel=1e-5)
    assert [each["label"] for each in choice["labels"]] == ["sell", "buy", "wait"]


def test_a_number_outside_of_what_training_saw_is_answered_and_said(loaded) -> None:
    (answer,) = asked(loaded["price"], {**HOUSE, "rooms": 12, "area": 1.5})
    assert answer["notes"] == [
        "rooms is 12; the greatest that training saw is 9",
        "area is 1.5; the least that training saw is 20.5",
    ]


def test_what_is_no_distribution_is_not_called_a_probability(loaded) -> None:
    manifest = loaded["toy"].manifest
    (answer,) = people.tell(manifest, {"logits": np.array([[0.5, -1, 2.5]], np.float32)}, [{}])
    assert answer["label"] == "ship"
    assert [(each["label"], each["score"]) for each in answer["labels"]] == [("ship", 2.5), ("cat", 0.5), ("dog", -1)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_said_as_infer_says_it(loaded, value: float) -> None:
    with pytest.raises(RequestError, match="numbers in 'logits' that are not finite"):
        people.tell(loaded["toy"].manifest, {"logits": np.array([[0.5, value, 2.5]], np.float32)}, [{}])


BAD = {
    "no json": ("mood", b"{", "", 400, "the body is not JSON"),
    "nothing": ("mood", b"", "", 400, "the body is not JSON"),
    "an empty list": ("mood", [], "", 400, "the list is empty"),
    "too many": ("mood", ["a"] * 257, "", 400, "more than 256 items"),
    "a number for a text": ("mood", 3, "", 400, "the body is no text"),
    "an empty text among others": ("mood", ["a", " "], "", 400, "item 2 is no text"),
    "text under another name": ("mood", {"txt": "a"}, "", 400, "the body is no text"),
    "a text that is no text": ("mood", b"\xff\xfe", "text/plain", 400, r"not UTF-8 \(byte 0\)"),
    "an image for a text": ("mood", b"\x89PNG", "image/png", 415, "mood takes a text, not image/png"),
    "a form for a row": ("price", b"", "multipart/form-data; boundary=x", 415, "price takes a row"),
    "json for an image": ("toy", {"a": 1}, "application/json", 415, "toy takes image files"),
    "tensors": ("sum", {"a": 1}, "", 400, "sum takes tensors only"),
    "a row that is a list": ("price", [[1, 2]], "", 400, "a row is an object with the columns area, color, rooms"),
    "no column": ("price", {"rooms": 1, "area": 30}, "", 400, "column 'color' is missing"),
    "in the second row": ("price", [HOUSE, {}], "", 400, "row 2: column 'rooms' is missing"),
    "another column": ("price", {**HOUSE, "door": 1}, "", 400, "no column 'door': this model has area, color, rooms"),
    "another category": ("price", {**HOUSE, "color": "pink"}, "", 400, "'color' is one of blue, green, red"),
    "a category that is a list": ("price", {**HOUSE, "color": ["red"]}, "", 400, "'color' is one of"),
    "text for a number": ("price", {**HOUSE, "area": "40"}, "", 400, "'area' takes a number"),
    "true for a number": ("price", {**HOUSE, "rooms": True}, "", 400, "'rooms' takes a number"),
    "null for a number": ("choice", {**HOUSE, "rooms": None}, "", 400, "'rooms' takes a number"),
    "a fraction for a whole number": ("price", {**HOUSE, "rooms": 2.5}, "", 400, "'rooms' takes whole numbers"),
    "too great for its type": ("price", {**HOUSE, "rooms": 2**63}, "", 400, "'rooms' has a value out of the range"),
    "too great for a float": ("choice", {**HOUSE, "area": 1e300}, "", 400, "'area' has a value out of the range"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_it_cannot_take_is_refused_by_name(loaded, case: str) -> None:
    name, body, media, status, words = BAD[case]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RequestError) as refused:
        people.read(loaded[name].manifest, media, data)
    assert refused.value.status == status
    assert re.search(words, refused.value.message)


def test_a_program_for_one_at_a_time_takes_one(loaded) -> None:
    value = loaded["mood"].manifest.model_dump(mode="json")
    value["signature"]["inputs"][0]["shape"] = [1]
    one = Manifest.model_validate(value)
    assert people.read(one, "", b'"a"')[0]["text"].shape == (1,)
    with pytest.raises(RequestError, match="exactly 1 at a time, not 2"):
        people.read(one, "", b'["a", "b"]')


def test_manifests_without_columns_and_their_model_digests_stay_as_they_were(tmp_path: Path) -> None:
    make_release(tmp_path / "a")
    written = json.loads((tmp_path / "a" / manifests.NAME).read_bytes())
    assert set(written["input"]) == {"kind", "labels", "shape"}
    # Computed before columns were known of: a champion of that time must stay the model that it is.
    fixed = manifests.Input(kind="image", labels=("a", "b"), shape=(1, 1, 1))
    signature = manifests.Signature.model_validate(
        {
            "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 1, 1, 1]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
        }
    )
    assert (
        manifests.model_digest("0" * 64, fixed, signature)
        == "38256bf05de38aeb3173dbc513a62c7758125fe3affb320e2d5102ef30f4ab20"
    )


@pytest.mark.parametrize(
    "columns",
    [
        [{"name": "a", "kind": "number"}, {"name": "a", "kind": "number"}],
        [{"name": "a", "kind": "category"}],
        [{"name": "a", "kind": "number", "categories": ["x"]}],
        [{"name": "a", "kind": "category", "categories": ["x", "x"]}],
        [{"name": "a", "kind": "number", "minimum": float("nan")}],
        [{"name": "", "kind": "number"}],
    ],
)
def test_columns_that_no_form_could_show_are_refused(columns: list[dict]) -> None:
    with pytest.raises(ValueError, match="columns"):
        manifests.Input.model_validate({"kind": "row", "columns": columns})


def test_few_images_wait_for_their_decoding_and_the_others_are_sent_away(loaded) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")

    async def ask() -> list[Any]:
        reader = people.Reader()
        asked = (reader.read(loaded["toy"].manifest, "image/png", out.getvalue()) for _ in range(20))
        first = await asyncio.gather(*asked, return_exceptions=True)
        return [*first, await reader.read(loaded["toy"].manifest, "image/png", out.getvalue())]

    *answers, last = asyncio.run(ask())
    refused = [each for each in answers if isinstance(each, RequestError)]
    assert len(refused) == 11
    assert {(each.status, tuple(each.headers)) for each in refused} == {(503, (("retry-after", "1"),))}
    assert last[0]["image"].shape == (1, 4, 4, 3)


def test_long_texts_are_read_beside_the_event_loop_and_answered_as_short_ones(loaded, monkeypatch) -> None:
    mood = loaded["mood"]
    threads: list[str] = []
    read = people.read

    def noted(*given: Any) -> people.Read:
        threads.append(threading.current_thread().name)
        return read(*given)

    monkeypatch.setattr(people, "read", noted)
    short, long = b'"a lovely day"', json.dumps(["a lovely day", "a" * (2 << 20)]).encode()

    async def ask() -> list[people.Read]:
        reader = people.Reader()
        return [await reader.read(mood.manifest, "application/json", body) for body in (short, long)]

    (first, _), (both, _) = asyncio.run(ask())
    assert [name.startswith("people") for name in threads] == [False, True]
    assert first["text"].ravel().tolist() == both["text"].ravel().tolist()[:1]
