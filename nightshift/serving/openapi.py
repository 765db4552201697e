"""The OpenAPI document of what is loaded now: every path with the very tensors, labels and columns of its model."""

from collections.abc import Mapping, Sequence
from typing import Any

from nightshift.releases.manifest import Column, Manifest, Tensor, short
from nightshift.serving.people import MAX_ITEMS, bounds, takes

Schema = dict[str, Any]

_EXAMPLE_VALUES = 256  # a bigger example is nothing that a person reads
_FAULTS = {
    400: "The request is wrong; the sentence names the field.",
    401: "A key is needed.",
    403: "The key may not do this.",
    404: "There is no such model, version or path.",
    405: "Another method is for this path.",
    408: "The body did not arrive in time.",
    410: "This model or version was retired; the sentence names its successor.",
    413: "The body is too big.",
    415: "This kind of body is not taken.",
    421: "This host name is not served here.",
    429: "The key's rate or quota is used up; Retry-After says for how long.",
    503: "Not ready, or too much waits already; Retry-After says for how long.",
}
_NAMES = {
    "nightshift-model": "The model that answered.",
    "nightshift-digest": "The release that answered.",
    "nightshift-role": "champion, canary or pinned.",
}


def document(models: Mapping[str, tuple[Manifest, Sequence[tuple[str, str]]]], version: str, keys: bool) -> Schema:
    """OpenAPI 3.1 for these models, each with its manifest and the digests that are loaded of it with their roles.

    ``keys``: whether requests need one.
    """
    paths: dict[str, Schema] = {
        "/v2/health/live": {"get": _get("server", "Is the process alive?", {"live": {"type": "boolean"}}, [])},
        "/v2/health/ready": {"get": _get("server", "Is a model loaded?", {"ready": {"type": "boolean"}}, [])},
        "/v2": {
            "get": _get(
                "server",
                "Name, version and extensions of the protocol",
                {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}},
            )
        },
        "/v1/models": {
            "get": _get(
                "server",
                "What is served, and what each model takes",
                {"models": {"type": "array", "items": {"type": "object", "required": ["name", "kind", "serving"]}}},
            )
        },
    }
    index = _get("server", "What is loaded, in the words of the protocol's repository extension", {})
    index["responses"] = _answers({"type": "array", "items": _object({"name": _TEXT, "version": _TEXT}, ["name"])})
    paths |= {
        "/v2/repository/index": {"post": index},
        "/status": {"get": _get("server", "What serves by which order, what was refused and why", {}, _ADMIN)},
        "/metrics": {"get": _metrics()},
        "/refresh": {
            "post": _get("server", "Read the ledger now", {"refreshing": {"type": "boolean"}}, _ADMIN),
        },
    }
    for name, (manifest, serving) in models.items():
        paths |= _of_model(name, manifest, [short(digest) for digest, _ in serving])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nightshift endpoint",
            "version": version,
            "description": "The Open Inference Protocol v2 for programs, :predict for people. Every fault is answered "
            'as {"error": "a sentence"}; every answer of a model names its release in its headers.',
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "server", "description": "The endpoint itself."},
            *({"name": name, "description": _about(manifest)} for name, (manifest, _) in models.items()),
        ],
        "security": [{"header": []}, {"bearer": []}] if keys else [{}, {"header": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {"Error": _object({"error": {"type": "string", "minLength": 1}}, ["error"])},
            "responses": {
                str(status): {"description": words, "content": _json({"$ref": "#/components/schemas/Error"})}
                for status, words in _FAULTS.items()
            },
        },
    }


_TEXT: Schema = {"type": "string"}
_ANY: Schema = {"type": "object"}
_BYTES: Schema = {"schema": {"type": "string", "format": "binary"}}
_ADMIN: list[Schema] = [{"header": []}, {"bearer": []}]
_JSON_LENGTH: Schema = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of the JSON before the binary tensors; without it the body is all JSON.",
    "schema": {"type": "integer", "minimum": 1},
}


def _of_model(name: str, manifest: Manifest, versions: Sequence[str]) -> dict[str, Schema]:
    infer = {
        "summary": "Tensors in, tensors out (Open Inference Protocol)",
        "description": "Binary tensors, and compressed bodies, are taken as the protocol's extensions have them.",
        "requestBody": {
            "required": True,
            "content": {"application/json": _infer_body(manifest), "application/octet-stream": _BYTES},
        },
        "parameters": [_JSON_LENGTH],
        "responses": _answers(_infer_answer(manifest), {"application/octet-stream": _BYTES}),
    }
    about = _get(
        name, "Signature and input of the model", {"name": {"const": name}, "versions": _ANY | {"type": "array"}}
    )
    ready = _get(name, "Is this model loaded?", {"name": {"const": name}, "ready": {"const": True}})
    verbs: dict[str, Schema] = {}
    if takes(manifest) != "tensor":
        verbs[f"/v1/models/{name}:predict"] = {
            "post": {
                "summary": "Ask as a person: labels and probabilities, best first, or values",
                "description": "The body may be compressed (Content-Encoding gzip or deflate).",
                "requestBody": {"required": True, "content": _predict_body(manifest)},
                "responses": _answers(_predict_answer(name, manifest)),
            }
        }
    verbs |= {
        f"/v2/models/{name}/infer": {"post": infer},
        f"/v2/models/{name}": {"get": about},
        f"/v2/models/{name}/ready": {"get": ready},
        f"/v2/models/{name}/config": {"get": _get(name, "The model as Triton's clients want it described", {})},
        f"/v2/models/{name}/stats": {
            "get": _get(name, "What it has answered, and in how much time", {"model_stats": {"type": "array"}})
        },
    }
    of_version = {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "A release that is loaded, by its digest or the digest's short form.",
        "schema": {"type": "string", "enum": list(versions)},
    }
    paths = {}
    for path, methods in verbs.items():
        pinned = path.replace(f"/models/{name}", f"/models/{name}/versions/{{version}}", 1)
        for method, operation in methods.items():
            verb = path.rpartition(name)[2].strip("/:") or "metadata"
            paths[path] = {method: operation | {"operationId": f"{verb}_{name}", "tags": [name]}}
            paths[pinned] = {
                method: operation
                | {"operationId": f"{verb}_{name}_version", "tags": [name]}
                | {"parameters": [of_version, *operation.get("parameters", [])]}
                | {"summary": operation["summary"] + ", of one release"}
            }
    return paths


def _get(tag: str, summary: str, properties: dict[str, Schema], security: list[Schema] | None = None) -> Schema:
    """An operation without a body; ``security`` where it is another than the document's."""
    return {
        "summary": summary,
        "tags": [tag],
        "responses": _answers(_object(properties, list(properties))),
        **({} if security is None else {"security": security}),
    }


def _metrics() -> Schema:
    text = {"schema": _TEXT}
    fine = {"description": "The answer.", "content": {"text/plain": text, "application/openmetrics-text": text}}
    asked = _get("server", "Counts for Prometheus", {}, _ADMIN)
    return asked | {"responses": asked["responses"] | {"200": fine}}


def _answers(schema: Schema, other: Schema | None = None) -> Schema:
    headers = {name: {"description": words, "schema": _TEXT} for name, words in _NAMES.items()}
    fine = {"description": "The answer.", "content": _json(schema) | (other or {}), "headers": headers}
    return {"200": fine} | {str(status): {"$ref": f"#/components/responses/{status}"} for status in _FAULTS}


def _infer_body(manifest: Manifest) -> Schema:
    inputs = manifest.signature.inputs
    names = [tensor.name for tensor in manifest.signature.outputs]
    output = _object({"name": {"enum": names}, "parameters": _ANY}, ["name"])
    schema = _object(
        {
            "id": {"type": ["string", "null"], "description": "echoed in the answer"},
            "parameters": _ANY,
            "inputs": {
                "type": "array",
                "items": {"oneOf": [_tensor(tensor) for tensor in inputs]},
                "minItems": len(inputs),
                "maxItems": len(inputs),
            },
            "outputs": {"type": ["array", "null"], "items": output, "description": "which outputs; all when left out"},
        },
        ["inputs"],
    )
    example = [_zeros(tensor) for tensor in inputs]
    small = all(len(tensor["data"]) <= _EXAMPLE_VALUES for tensor in example)
    return {"schema": schema} | ({"example": {"inputs": example}} if small else {})


def _tensor(tensor: Tensor) -> Schema:
    data: Schema = {"type": "array", "description": "flat in row-major order, or nested like the shape"}
    sizes = [{"type": "integer", "minimum": 1} if size < 0 else {"const": size} for size in tensor.shape]
    shape: Schema = {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)}
    shape["description"] = str(list(tensor.shape)).replace("-1", "any")
    properties: dict[str, Schema] = {
        "name": {"const": tensor.name},
        "datatype": {"const": tensor.datatype},
        "shape": shape,
        "data": data,
        "parameters": _ANY,
    }
    return _object(properties, ["name", "datatype", "shape", "data"])


def _zeros(tensor: Tensor) -> Schema:
    """A request's tensor with the least sizes: one item."""
    sizes = [max(size, 1) for size in tensor.shape]
    count = 1
    for size in sizes:
        count *= size
    zero: Any = {"BYTES": "text", "BOOL": False}.get(tensor.datatype, 0)
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": sizes, "data": [zero] * min(count, 10**4)}


def _infer_answer(manifest: Manifest) -> Schema:
    # Its best classes, where these are asked for, are texts.
    shown: list[dict[str, Schema]] = [
        {
            "name": {"const": tensor.name},
            "datatype": {"enum": sorted({tensor.datatype, "BYTES"})},
            "shape": _ANY | {"type": "array"},
        }
        for tensor in manifest.signature.outputs
    ]
    outputs = [_object(each | {"data": _ANY | {"type": "array"}}, [*each, "data"]) for each in shown]
    properties = {
        "model_name": {"const": manifest.model},
        "model_version": _TEXT,
        "id": _TEXT,
        "outputs": {"type": "array", "items": {"oneOf": outputs}},
    }
    return _object(properties, ["model_name", "model_version", "outputs"])


def _predict_body(manifest: Manifest) -> Schema:
    match takes(manifest):
        case "image":
            files = {"file": {"type": "array", "items": _BYTES["schema"], "minItems": 1, "maxItems": MAX_ITEMS}}
            kinds = {f"image/{kind}": _BYTES for kind in ("png", "jpeg", "webp", "gif", "bmp")}
            return kinds | {"multipart/form-data": {"schema": _object(files, ["file"])}}
        case "text":
            text = {"type": "string", "minLength": 1, "pattern": r"\S"}
            one: Schema = {"oneOf": [_object({"text": text}, ["text"]), text]}
            example: Any = {"text": "What is it about?"}
            plain = {"text/plain": {"schema": text, "example": example["text"]}}
        case _:
            columns = manifest.input.columns
            one = _object({column.name: _column(manifest, column) for column in columns}, [c.name for c in columns])
            one["additionalProperties"] = False
            example, plain = {column.name: _typical(column) for column in columns}, {}
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_ITEMS}
    return {"application/json": {"schema": {"oneOf": [one, many]}, "example": example}} | plain


def _column(manifest: Manifest, column: Column) -> Schema:
    if column.kind == "category":
        return {"enum": list(column.categories)}
    tensors = {tensor.name: tensor for tensor in manifest.signature.inputs}
    datatype = tensors[column.name].datatype if column.name in tensors else manifest.signature.inputs[0].datatype
    seen = [
        f"{word} {limit:g}" for word, limit in (("from", column.minimum), ("to", column.maximum)) if limit is not None
    ]
    described = {"description": f"training saw it {' '.join(seen)}"} if seen else {}
    least, greatest = bounds(datatype)
    kind = "integer" if isinstance(least, int) else "number"
    return {"type": kind, "minimum": least, "maximum": greatest} | described


def _typical(column: Column) -> Any:
    if column.kind == "category":
        return column.categories[0]
    known = [limit for limit in (column.minimum, column.maximum) if limit is not None]
    value = sum(known) / len(known) if known else 0
    return int(value) if len(known) != 1 else value


def _predict_answer(name: str, manifest: Manifest) -> Schema:
    number = {"type": ["number", "null"]}
    label = {"label": {"enum": list(manifest.input.labels)}} if manifest.input.labels else {"label": _TEXT}
    ranked = _object(label | {"probability": number, "score": number}, ["label"])
    prediction = _object(
        label
        | {
            "labels": {"type": "array", "items": ranked, "description": "best first"},
            "values": _ANY | {"description": "of a model without labels, by the output's name"},
            "file": _TEXT | {"description": "the name of the file that was sent"},
            "notes": {
                "type": "array",
                "items": _TEXT,
                "description": "what was done to the input, or is unusual in it",
            },
        },
        [],
    )
    properties = {
        "model": {"const": name},
        "version": _TEXT,
        "digest": _TEXT | {"pattern": "^[0-9a-f]{64}$"},
        "role": _TEXT | {"description": "champion, canary or pinned"},
        "seconds": {"type": "number", "minimum": 0, "description": "from the request's headers to its answer"},
        "predictions": {"type": "array", "items": prediction, "minItems": 1, "description": "one per item"},
    }
    return _object(properties, list(properties))


def _about(manifest: Manifest) -> str:
    return f"{manifest.task.replace('_', ' ').capitalize()}, takes {takes(manifest)}."


def _object(properties: dict[str, Schema], required: list[str]) -> Schema:
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
