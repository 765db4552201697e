"""``nightshift predict MODEL FILE…``: ask the endpoint, as any client of the protocol would."""

import json as json_
import os
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nightshift.cli.connect import connect, endpoints, take_settings
from nightshift.errors import NightshiftError
from nightshift.releases import golden as goldens
from nightshift.releases.manifest import GOLDEN, short
from nightshift.releases.proof import LOOPBACK, authority

_SHOWN = 3  # labels per image


def predict(
    model: Annotated[str, typer.Argument(help="The model.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Images (PNG, JPEG, …).")] = None,
    golden: Annotated[bool, typer.Option("--golden", help="Send the release's golden requests instead.")] = False,
    url: Annotated[str | None, typer.Option(help="The endpoint; else the first of NIGHTSHIFT_ENDPOINTS.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of a table.")] = False,
) -> None:
    """Ask the endpoint about image files, or whether it still answers the golden requests as it should."""
    if golden == bool(files):
        raise NightshiftError("give image files or --golden", f"nightshift predict {model} image.png", exit_code=2)
    if golden or not url:
        take_settings("deployer")
    # The stack's own key goes to the stack's own endpoint only.
    key = os.environ.get("NIGHTSHIFT_API_KEY") or ("" if url else os.environ.get("NIGHTSHIFT_ENDPOINT_KEY"))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = (url or next(iter(endpoints()), "http://127.0.0.1:8000")).rstrip("/")
    with httpx.Client(base_url=url, timeout=60, mounts=LOOPBACK, headers=headers, verify=authority()) as client:
        if golden:
            _golden(client, model, json)
        else:
            _images(client, model, files or [], json)


def _images(client: httpx.Client, model: str, files: list[Path], json: bool) -> None:
    about = _ask(client, "GET", f"/v2/models/{model}").json()
    kind = about.get("parameters", {})
    if kind.get("kind") != "image":
        raise NightshiftError(f"{model} takes no images but {kind.get('kind')}", "send it tensors: docs/api.md")
    tensor = about["inputs"][0]
    request = {
        "name": tensor["name"],
        "datatype": tensor["datatype"],
        "shape": [len(files), *tensor["shape"][1:]],
        "data": [value for file in files for value in _pixels(file, tensor)],
    }
    answer = _ask(client, "POST", f"/v2/models/{model}/infer", json={"inputs": [request]})
    labels = kind.get("labels") or []
    output = next((out for out in answer.json()["outputs"] if out["shape"][-1:] == [len(labels)]), None)
    if output is None:
        raise NightshiftError(
            f"{model} answers no tensor with its {len(labels)} labels", "ask it directly: docs/api.md"
        )
    predictions = []
    for index, file in enumerate(files):
        row = output["data"][index * len(labels) : (index + 1) * len(labels)]
        ranked = dict(sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1]))
        best = next(iter(ranked))
        predictions.append({"file": str(file), "label": best, "probability": ranked[best], "probabilities": ranked})
    digest = answer.headers["nightshift-digest"]
    if json:
        typer.echo(json_.dumps({"model": model, "digest": digest, "predictions": predictions}, indent=2))
        return
    table = Table("file", "label", "probability", "then", box=None)
    for each in predictions:
        others = list(each["probabilities"].items())[1:_SHOWN]
        then = ", ".join(f"{label} {probability:.1%}" for label, probability in others)
        table.add_row(
            escape(each["file"]), f"[bold]{escape(each['label'])}[/]", f"{each['probability']:.1%}", escape(then)
        )
    Console().print(table)
    Console().print(f"[dim]answered by {model} {short(digest)}[/]")


def _golden(client: httpx.Client, model: str, json: bool) -> None:
    connection = connect()
    digest = _ask(client, "GET", f"/v2/models/{model}").headers["nightshift-digest"]
    requests = goldens.load(connection.registry.read(model, digest, GOLDEN))
    wrong = []
    for index, case in enumerate(requests.cases, start=1):
        answer = _ask(client, "POST", f"/v2/models/{model}/infer", json={"inputs": case.inputs})
        found = goldens.difference(case.outputs, answer.json()["outputs"], requests.tolerance)
        if found:
            wrong.append(f"golden request {index}: {found}")
    count = len(requests.cases)
    if json:
        typer.echo(json_.dumps({"model": model, "digest": digest, "requests": count, "wrong": wrong}, indent=2))
    else:
        Console().print(f"{model} {short(digest)}: {count - len(wrong)} of {count} golden requests agree")
        for line in wrong:
            Console().print(line, markup=False)
    if wrong:
        raise typer.Exit(1)


def _pixels(file: Path, tensor: dict[str, Any]) -> list[int]:
    """The image's pixels as the tensor wants them: height, width, channels; resized when it has another size."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise NightshiftError("reading images needs Pillow", "pip install pillow") from error
    shape = tensor["shape"]
    modes = {1: "L", 3: "RGB"}
    if tensor["datatype"] != "UINT8" or len(shape) != 4 or shape[3] not in modes:
        raise NightshiftError(
            f"input {tensor['name']!r} is {tensor['datatype']} {shape}, not raw pixels", "send it tensors: docs/api.md"
        )
    try:
        with Image.open(file) as opened:
            image = opened.convert(modes[shape[3]])
    except FileNotFoundError:
        raise NightshiftError(f"there is no file {file}", "give the path of an image") from None
    except (UnidentifiedImageError, OSError) as error:
        raise NightshiftError(f"{file} cannot be read as an image: {error}", "give a PNG or JPEG file") from error
    if image.size != (shape[2], shape[1]):
        image = image.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    return list(image.tobytes())


def _ask(client: httpx.Client, method: str, path: str, **content: Any) -> httpx.Response:
    try:
        answer = client.request(method, path, **content)
    except httpx.HTTPError as error:
        raise NightshiftError(
            f"no endpoint answers at {client.base_url} ({type(error).__name__})",
            "start it (`make up`, or `nightshift serve`), or name it with --url",
        ) from error
    if answer.status_code != 200:
        try:
            reason = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            reason = answer.text[:200]
        raise NightshiftError(
            f"{client.base_url} answers {answer.status_code}: {reason}", "GET /status says what serves"
        )
    return answer
