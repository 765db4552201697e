"""REST answers have the fields that the protocol's own OpenAPI document requires, and of its types."""

from typing import Any

import jsonschema
import pytest

from tests.serving.world import IMAGE

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
DATA = {"type": "array", "items": {"type": ["number", "string", "boolean", "array"]}}


def thing(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def several(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


TENSOR = thing({"name": TEXT, "datatype": TEXT, "shape": several(NUMBER)})
SERVER = thing({"name": TEXT, "version": TEXT, "extensions": several(TEXT)})
MODEL = thing(
    {"name": TEXT, "platform": TEXT}, {"versions": several(TEXT), "inputs": several(TENSOR), "outputs": several(TENSOR)}
)
OUTPUT = thing({"name": TEXT, "shape": several(NUMBER), "datatype": TEXT, "data": DATA}, {"parameters": thing({})})
INFERENCE = thing(
    {"model_name": TEXT, "outputs": {**several(OUTPUT), "minItems": 1}},
    {"model_version": TEXT, "id": TEXT, "parameters": thing({})},
)
FAULT = thing({"error": TEXT})


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_servers_metadata(served, path: str) -> None:
    jsonschema.validate(served[1].client.get(path).json(), SERVER)


def test_a_models_metadata(served) -> None:
    _, endpoint, digest = served
    for path in ("/v2/models/toy", f"/v2/models/toy/versions/{digest}"):
        jsonschema.validate(endpoint.client.get(path).json(), MODEL)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"id": "42"},
        {"parameters": {"priority": 1}},
        {"outputs": [{"name": "probabilities"}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]},
    ],
    ids=["plain", "id", "parameters", "output", "classes"],
)
def test_an_inference(served, more: dict[str, Any]) -> None:
    answer = served[1].infer(inputs=[IMAGE], **more)
    assert answer.status_code == 200
    jsonschema.validate(answer.json(), INFERENCE)


@pytest.mark.parametrize(
    ("status", "path", "body"),
    [
        (400, "/v2/models/toy/infer", b"{}"),
        (400, "/v2/models/toy/infer", b"no JSON"),
        (404, "/v2/models/cat/infer", b"{}"),
        (404, "/v2/models/toy/versions/1/infer", b"{}"),
        (403, "/v2/repository/models/toy/load", b"{}"),
    ],
)
def test_a_fault(served, status: int, path: str, body: bytes) -> None:
    answer = served[1].client.post(path, content=body)
    assert answer.status_code == status
    jsonschema.validate(answer.json(), FAULT)
