"""The OpenAPI document is true: a fuzzer that knows only it finds no fault of the server and no answer beside it."""

import json
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import schemathesis

from tests.releases import kinds
from tests.serving.world import Endpoint, World, serving

# A document cannot say that a tensor has as many values as its shape, or which bytes are an image.
EVERY_CHECK = ("--checks", "all", "--exclude-checks", "positive_data_acceptance")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    world = World(tmp_path_factory.mktemp("openapi"))
    digests = {"toy": world.publish()}
    for name, make in {"mood": kinds.text_release, "price": kinds.row_release}.items():
        make(world.folder / name)
        digests[name] = world.registry.publish(world.folder / name)
    with serving(world, digests) as endpoint:
        yield endpoint


def fuzz(endpoint: Endpoint, folder: Path, *options: str) -> str:
    """Runs it to the end; its report, and a failure with the report when it found something."""
    command = [str(Path(sysconfig.get_path("scripts"), "schemathesis")), "run", f"{endpoint.url}/openapi.json"]
    command += ["--generation-deterministic", "--no-color", "--warnings", "off"]
    command += ["--request-timeout", "60", "--continue-on-failure", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


def test_a_fuzzer_finds_no_answer_beside_the_document(endpoint: Endpoint, tmp_path: Path) -> None:
    report = fuzz(endpoint, tmp_path, "--max-examples", "4", "--phases", "examples,coverage,fuzzing", *EVERY_CHECK)
    assert "Tested: " in report


def test_what_the_document_allows_of_texts_and_rows_is_answered(endpoint: Endpoint, tmp_path: Path) -> None:
    report = fuzz(
        endpoint,
        tmp_path,
        *("--include-path-regex", r"(mood|price):predict", "--mode", "positive", "--max-examples", "15"),
        *("--phases", "examples,fuzzing", "--checks", "positive_data_acceptance,response_schema_conformance"),
    )
    assert "Tested: 2" in report


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_fuzzer_with_time_finds_nothing_either(endpoint: Endpoint, tmp_path: Path) -> None:
    fuzz(endpoint, tmp_path, "--max-examples", "150", "--phases", "examples,coverage,fuzzing,stateful", *EVERY_CHECK)


def test_it_is_an_openapi_3_1_document_of_what_is_loaded(endpoint: Endpoint) -> None:
    api = endpoint.client.get("/openapi.json").json()
    assert api["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(api).validate()
    version = endpoint.of("price")["serving"][:12]
    pinned = api["paths"]["/v1/models/price/versions/{version}:predict"]["post"]
    assert pinned["parameters"][0]["schema"]["enum"] == [version]
    row = api["paths"]["/v1/models/price:predict"]["post"]["requestBody"]["content"]["application/json"]
    assert row["example"] == {"rooms": 5, "area": 20.5, "color": "blue"}
    assert row["schema"]["oneOf"][0]["properties"]["color"] == {"enum": ["blue", "green", "red"]}
    assert "/v1/models/nobody:predict" not in api["paths"]


def test_every_example_of_the_document_is_answered(endpoint: Endpoint) -> None:
    api = endpoint.client.get("/openapi.json").json()
    asked = 0
    for path, methods in api["paths"].items():
        for kind, content in methods.get("post", {}).get("requestBody", {}).get("content", {}).items():
            if "example" not in content or "{" in path:
                continue
            body = content["example"] if kind == "text/plain" else json.dumps(content["example"])
            answer = endpoint.client.post(path, content=body, headers={"content-type": kind})
            assert answer.status_code == 200, (path, kind, answer.text)
            asked += 1
    assert asked == 6  # infer of three models; predict of a text, twice, and of a row


@pytest.mark.parametrize("classes", [0, 2])
def test_an_answer_is_as_the_document_has_it_also_with_the_best_classes(endpoint: Endpoint, classes: int) -> None:
    api = endpoint.client.get("/openapi.json").json()
    operation = api["paths"]["/v2/models/toy/infer"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    output = {"name": "probabilities", "parameters": {"classification": classes}}
    answer = endpoint.client.post("/v2/models/toy/infer", json={**example, "outputs": [output]}).json()
    jsonschema.validate(answer, operation["responses"]["200"]["content"]["application/json"]["schema"])
    assert answer["outputs"][0]["datatype"] == ("BYTES" if classes else "FP32")
