"""Run by tritonclient's own Python: drives an endpoint through all that the client offers, over HTTP and gRPC.

python triton_checks.py HTTP_ADDRESS GRPC_ADDRESS DIGEST      prints {check: "ok" or what went wrong}
"""

import json
import sys
import traceback
from types import ModuleType

import numpy as np
import tritonclient.grpc
import tritonclient.http
from ml_dtypes import bfloat16
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

VALUES = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65535]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-32768, 32767]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[1.5, -65504]], np.float16),
    "FP32": np.array([[1.5, -3.4e38]], np.float32),
    "FP64": np.array([[1.5, -1.7e308]], np.float64),
    "BYTES": np.array([["", "Straße 日本"]], object),
}
IMAGE = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def tensor(library: ModuleType, name: str, array: np.ndarray, **how):
    made = library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, **how)
    return made


def refused(call, *words: str) -> InferenceServerException:
    found = None
    try:
        call()
    except InferenceServerException as error:
        found = error
    assert found, "it was not refused"
    assert all(word in str(found) for word in words), str(found)
    return found


def same(found: np.ndarray, sent: np.ndarray) -> None:
    if sent.dtype == object:
        found = np.array([element.decode() for element in found.ravel()], object).reshape(found.shape)
    assert found.shape == sent.shape, (found.shape, sent.shape)
    assert (found == sent).all(), (found, sent)


def every_datatype(library: ModuleType, client, batch: int, ask: dict, **how) -> None:
    arrays = {name: np.concatenate([array] * batch) for name, array in VALUES.items()}
    inputs = [tensor(library, f"in_{name}", array, **how) for name, array in arrays.items()]
    outputs = [library.InferRequestedOutput(f"out_{name}", **ask) for name in VALUES]
    answer = client.infer("types", inputs, request_id="41", outputs=outputs)
    for name, sent in arrays.items():
        same(answer.as_numpy(f"out_{name}"), sent)


def best_classes(library: ModuleType, client) -> None:
    wanted = library.InferRequestedOutput("probabilities", class_count=2)
    found = client.infer("toy", [tensor(library, "image", IMAGE)], outputs=[wanted]).as_numpy("probabilities")
    whole = client.infer("toy", [tensor(library, "image", IMAGE)]).as_numpy("probabilities")[0]
    assert found.shape == (1, 2), found.shape
    score, index, label = found[0, 0].decode().split(":")
    assert (int(index), label) == (whole.argmax(), ("cat", "dog", "ship")[whole.argmax()])
    assert abs(float(score) - whole.max()) < 1e-5


def a_version(library: ModuleType, client, digest: str) -> None:
    image = [tensor(library, "image", IMAGE)]
    whole = client.infer("toy", image).as_numpy("probabilities")
    for version in (digest, digest[:12]):
        same(client.infer("toy", image, model_version=version).as_numpy("probabilities"), whole)
        assert client.is_model_ready("toy", version)
    refused(lambda: client.infer("toy", image, model_version="1"), "'1'")


def faults(library: ModuleType, client) -> None:
    image = [tensor(library, "image", IMAGE)]
    refused(lambda: client.infer("no-such-model", image), "no-such-model")
    refused(lambda: client.infer("toy", [tensor(library, "picture", IMAGE)]), "picture")
    refused(lambda: client.infer("toy", [tensor(library, "image", IMAGE[:, :2])]), "shape")
    refused(lambda: client.infer("toy", [tensor(library, "image", IMAGE.astype(np.float32))]), "UINT8")
    wanted = [library.InferRequestedOutput("logits")]
    refused(lambda: client.infer("toy", image, outputs=wanted), "logits")
    refused(lambda: client.get_model_metadata("no-such-model"), "no-such-model")


def the_repository(client, name) -> None:
    found = {name(one): one for one in client_index(client)}
    assert set(found) == {"toy", "types", "halves"}, found
    for change in (client.load_model, client.unload_model):
        refused(lambda change=change: change("toy"), "nightshift promote")


def client_index(client):
    index = client.get_model_repository_index()
    return index if isinstance(index, list) else index.models


@check
def grpc_health(_, client, __):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert not client.is_model_ready("no-such-model")


@check
def grpc_metadata(_, client, digest):
    assert client.get_server_metadata().name == "nightshift"
    about = client.get_model_metadata("toy", as_json=True)
    assert (about["name"], about["versions"]) == ("toy", [digest[:12]])
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "4", "4", "3"]}]
    config = client.get_model_config("types").config
    assert [f"TYPE_{name}".replace("BYTES", "STRING") for name in VALUES] == [
        type(config.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[one.data_type].name
        for one in config.input
    ]


def statistics(found, client_infer) -> None:
    """What is told before and after five requests and a wrong one differs by these."""
    before = found()
    image = np.concatenate([IMAGE, IMAGE])
    for _ in range(5):
        client_infer(image)
    refused(lambda: client_infer(IMAGE[:, :2]), "shape")
    after = found()
    success, fail = after["inference_stats"]["success"], after["inference_stats"]["fail"]
    assert int(after["inference_count"]) - int(before["inference_count"]) == 10, (before, after)
    assert int(after["execution_count"]) - int(before["execution_count"]) == 5, (before, after)
    assert int(success["count"]) - int(before["inference_stats"]["success"]["count"]) == 5
    assert int(fail["count"]) - int(before["inference_stats"]["fail"].get("count", 0)) == 1
    assert int(success["ns"]) > int(after["inference_stats"]["compute_infer"]["ns"]) > 0


@check
def grpc_statistics(_, client, digest):
    def one(model, version=""):
        (found,) = client.get_inference_statistics(model, version, as_json=True)["model_stats"]
        assert (found["name"], found["version"]) == (model, digest[:12])
        return found

    client.infer("toy", [tensor(tritonclient.grpc, "image", IMAGE)])
    refused(lambda: client.infer("toy", [tensor(tritonclient.grpc, "image", IMAGE[:, :2])]), "shape")
    statistics(
        lambda: one("toy", digest), lambda image: client.infer("toy", [tensor(tritonclient.grpc, "image", image)])
    )
    assert {found.name for found in client.get_inference_statistics().model_stats} == {"toy", "types", "halves"}
    refused(lambda: client.get_inference_statistics("no-such-model"), "no-such-model")


@check
def http_statistics(client, _, digest):
    def one(model, version=""):
        (found,) = client.get_inference_statistics(model, version)["model_stats"]
        assert (found["name"], found["version"]) == (model, digest[:12])
        return found

    statistics(lambda: one("toy"), lambda image: client.infer("toy", [tensor(tritonclient.http, "image", image)]))
    assert one("toy", digest[:12])["inference_stats"].keys() >= {"queue", "compute_input", "compute_output"}
    assert {found["name"] for found in client.get_inference_statistics()["model_stats"]} == {"toy", "types", "halves"}
    refused(lambda: client.get_inference_statistics("no-such-model"), "no-such-model")


@check
def grpc_every_datatype(_, client, __):
    for batch in (1, 3):
        every_datatype(tritonclient.grpc, client, batch, {})


def halves(library: ModuleType, client) -> None:
    """BF16 both ways, as bits beside another datatype."""
    sent = np.array([[1.5, -2.0], [2.0**100, 0.0]], np.float32)
    given = [library.InferInput(f"in_{name}", [2, 2], name) for name in ("BF16", "FP32")]
    given[0].set_data_from_numpy(sent.astype(bfloat16))
    given[1].set_data_from_numpy(sent)
    answer = client.infer("halves", given)
    assert np.array_equal(answer.as_numpy("out_BF16"), sent), answer.as_numpy("out_BF16")
    assert np.array_equal(answer.as_numpy("out_FP32"), sent)
    alone = client.infer("halves", given, outputs=[library.InferRequestedOutput("out_FP32")])
    assert np.array_equal(alone.as_numpy("out_FP32"), sent)
    given[0].set_data_from_numpy(np.array([[1, np.inf], [0, 0]], bfloat16))
    refused(lambda: client.infer("halves", given), "not finite as BF16")


@check
def grpc_bf16(_, client, __):
    halves(tritonclient.grpc, client)
    assert client.get_model_config("halves", as_json=True)["config"]["input"][0]["data_type"] == "TYPE_BF16"


@check
def http_bf16(client, _, __):
    halves(tritonclient.http, client)


@check
def grpc_compressed(_, client, __):
    for algorithm in ("gzip", "deflate"):
        answer = client.infer("toy", [tensor(tritonclient.grpc, "image", IMAGE)], compression_algorithm=algorithm)
        assert answer.as_numpy("probabilities").shape == (1, 3)


@check
def grpc_id_and_parameters(_, client, __):
    image = [tensor(tritonclient.grpc, "image", IMAGE)]
    answer = client.infer(
        "toy", image, request_id="a b", priority=1, timeout=5_000_000, parameters={"a": "b", "c": 1, "d": True}
    )
    assert answer.get_response().id == "a b"


@check
def grpc_asynchronous(_, client, __):
    import queue

    answers = queue.Queue()
    for _ in range(20):
        client.async_infer(
            "toy",
            [tensor(tritonclient.grpc, "image", IMAGE)],
            callback=lambda result, error: answers.put(error or result.as_numpy("probabilities").shape),
        )
    assert [answers.get(timeout=60) for _ in range(20)] == [(1, 3)] * 20


@check
def grpc_best_classes(_, client, __):
    best_classes(tritonclient.grpc, client)


@check
def grpc_a_version(_, client, digest):
    a_version(tritonclient.grpc, client, digest)


@check
def grpc_faults(_, client, __):
    faults(tritonclient.grpc, client)


@check
def grpc_the_repository(_, client, __):
    the_repository(client, lambda one: one.name)


@check
def grpc_what_is_not_here(_, client, __):
    for call in (client.get_trace_settings, client.get_log_settings, client.get_cuda_shared_memory_status):
        assert refused(call).status() == "StatusCode.UNIMPLEMENTED"


@check
def http_health(client, _, __):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert not client.is_model_ready("no-such-model")


@check
def http_metadata(client, _, digest):
    server = client.get_server_metadata()
    assert server["name"] == "nightshift"
    assert "binary_tensor_data" in server["extensions"]
    about = client.get_model_metadata("toy")
    assert (about["name"], about["versions"]) == ("toy", [digest[:12]])
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}]
    config = client.get_model_config("types")
    assert [one["data_type"] for one in config["input"]] == [
        f"TYPE_{name}".replace("BYTES", "STRING") for name in VALUES
    ]


@check
def http_every_datatype_in_binary(client, _, __):
    for batch in (1, 3):
        every_datatype(tritonclient.http, client, batch, {"binary_data": True}, binary_data=True)


@check
def http_every_datatype_in_json(client, _, __):
    json_only = {name: array for name, array in VALUES.items() if name != "FP16"}  # which the client sends in binary
    inputs = [tensor(tritonclient.http, f"in_{name}", array, binary_data=False) for name, array in json_only.items()]
    inputs.append(tensor(tritonclient.http, "in_FP16", VALUES["FP16"]))
    outputs = [tritonclient.http.InferRequestedOutput(f"out_{name}", binary_data=False) for name in json_only]
    answer = client.infer("types", inputs, outputs=outputs)
    for name, sent in json_only.items():
        found = answer.as_numpy(f"out_{name}")
        assert [str(element) for element in found.ravel()] == [str(element) for element in sent.ravel()], name


@check
def http_as_the_client_asks_by_itself(client, _, __):
    answer = client.infer("toy", [tensor(tritonclient.http, "image", IMAGE)], request_id="a b")
    assert answer.get_response()["id"] == "a b"
    assert answer.as_numpy("probabilities").shape == (1, 3)


@check
def http_compressed(client, _, __):
    whole = client.infer("toy", [tensor(tritonclient.http, "image", IMAGE)]).as_numpy("probabilities")
    for sent in ("gzip", "deflate"):
        for answered in ("gzip", "deflate", None):
            answer = client.infer(
                "toy",
                [tensor(tritonclient.http, "image", IMAGE)],
                request_compression_algorithm=sent,
                response_compression_algorithm=answered,
            )
            same(answer.as_numpy("probabilities"), whole)


@check
def http_and_grpc_answer_the_same(http, grpc, __):
    found = [
        client.infer("toy", [tensor(library, "image", IMAGE)]).as_numpy("probabilities")
        for library, client in ((tritonclient.http, http), (tritonclient.grpc, grpc))
    ]
    same(*found)


@check
def http_asynchronous(client, _, __):
    asked = [client.async_infer("toy", [tensor(tritonclient.http, "image", IMAGE)]) for _ in range(20)]
    assert [one.get_result().as_numpy("probabilities").shape for one in asked] == [(1, 3)] * 20


@check
def http_best_classes(client, _, __):
    best_classes(tritonclient.http, client)


@check
def http_a_version(client, _, digest):
    a_version(tritonclient.http, client, digest)


@check
def http_faults(client, _, __):
    faults(tritonclient.http, client)


@check
def http_the_repository(client, _, __):
    the_repository(client, lambda one: one["name"])


def main() -> None:
    http_address, grpc_address, digest = sys.argv[1:]
    http = tritonclient.http.InferenceServerClient(http_address, concurrency=4)
    grpc = tritonclient.grpc.InferenceServerClient(grpc_address)
    found = {}
    for name, function in CHECKS.items():
        try:
            function(http, grpc, digest)
            found[name] = "ok"
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
