"""``nightshift predict MODEL FILE…``: ask the endpoint, as any client of the protocol would."""

import json as json_
import os
import ssl
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

_SHOWN = 3  # labels per input
# What to do about an answer by its status, where its own sentence does not say it.
_HELP = {
    400: "correct the input: GET /v2/models/MODEL says what the model takes",
    401: "set NIGHTSHIFT_API_KEY",
    403: "set NIGHTSHIFT_API_KEY to a key that may ask this model",
    404: "`nightshift releases` says what is published, `nightshift history MODEL` what serves",
    503: "ask again in a moment, or look into the endpoint's log",
}


def predict(
    model: Annotated[str, typer.Argument(help="The model.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT]...", help="Image files; texts; one row as COLUMN=VALUE…, or rows as JSON."),
    ] = None,
    golden: Annotated[bool, typer.Option("--golden", help="Send the release's golden requests instead.")] = False,
    url: Annotated[str | None, typer.Option(help="The endpoint; else the first of NIGHTSHIFT_ENDPOINTS.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of a table.")] = False,
) -> None:
    """Ask the endpoint about images, texts or a row, or whether it still answers the golden requests as it should."""
    if golden == bool(inputs):
        raise NightshiftError(
            "give image files, texts, a row, or --golden", f"nightshift predict {model} image.png", exit_code=2
        )
    if golden or not url:
        take_settings("deployer")
    # The stack's own key goes to the stack's own endpoint only.
    key = os.environ.get("NIGHTSHIFT_API_KEY") or ("" if url else os.environ.get("NIGHTSHIFT_ENDPOINT_KEY"))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = (url or next(iter(endpoints()), "http://127.0.0.1:8000")).rstrip("/")
    if not _is_url(url):
        raise NightshiftError(
            f"{url} is no URL of an endpoint", "write it as http://127.0.0.1:8000 or https://HOST", exit_code=2
        )
    with httpx.Client(base_url=url, timeout=60, mounts=LOOPBACK, headers=headers, verify=authority()) as client:
        if golden:
            _golden(client, model, json)
        else:
            _ask_about(client, model, inputs or [], json)


def _ask_about(client: httpx.Client, model: str, inputs: list[str], json: bool) -> None:
    takes = _ask(client, "GET", f"/v2/models/{model}").json().get("parameters", {})
    kind = takes.get("kind")
    if kind == "image":
        named, content = inputs, _files(inputs)
    elif kind == "text":
        named, content = inputs, {"json": inputs}
    elif kind == "row":
        rows = _rows(inputs, {column["name"]: column["kind"] for column in takes.get("columns", [])})
        named, content = [json_.dumps(row, ensure_ascii=False) for row in rows], {"json": rows}
    else:
        raise NightshiftError(f"{model} takes {kind}s only", "send them as the protocol has them: docs/api.md")
    answer = _ask(client, "POST", f"/v1/models/{model}:predict", **content).json()
    what = {"image": "file"}.get(kind, kind)
    predictions = [
        {what: name} | _flat(prediction) for name, prediction in zip(named, answer["predictions"], strict=True)
    ]
    digest = answer["digest"]
    if json:
        typer.echo(json_.dumps({"model": model, "digest": digest, "predictions": predictions}, indent=2))
        return
    table = Table(what, "answer", "", "then", box=None)
    for each in predictions:
        best, *others = _shown(each)
        notes = "; ".join(each.get("notes", []))
        then = ", ".join(" ".join(other) for other in others[: _SHOWN - 1])
        table.add_row(
            escape(each[what]), f"[bold]{escape(best[0])}[/]", best[1], escape(then), f"[dim]{escape(notes)}[/]"
        )
    Console().print(table)
    Console().print(f"[dim]answered by {model} {short(digest)} ({answer['role']})[/]")


def _files(paths: list[str]) -> dict[str, Any]:
    """A form with the files, each under the name that was typed."""
    parts = []
    for path in paths:
        try:
            parts.append(("file", (path, Path(path).read_bytes())))
        except FileNotFoundError:
            raise NightshiftError(f"there is no file {path}", "give the path of an image") from None
        except OSError as error:
            raise NightshiftError(f"{path} cannot be read: {error.strerror}", "give the path of an image") from None
    return {"files": parts}


def _rows(inputs: list[str], kinds: dict[str, str]) -> list[dict[str, Any]]:
    """One row of ``column=value`` texts, or a row per JSON object; the endpoint checks what is in them."""
    if all(each.lstrip().startswith("{") for each in inputs):
        try:
            return [json_.loads(each) for each in inputs]
        except ValueError as error:
            raise NightshiftError(f"a row is no JSON: {error}", _row_help(kinds), exit_code=2) from None
    row: dict[str, Any] = {}
    for each in inputs:
        name, equals, value = each.partition("=")
        if not equals or name in row:
            raise NightshiftError(f"{each!r} is no COLUMN=VALUE, or given twice", _row_help(kinds), exit_code=2)
        try:
            row[name] = json_.loads(value) if kinds.get(name) == "number" else value
        except ValueError:
            raise NightshiftError(
                f"column {name!r} takes a number, not {value!r}", _row_help(kinds), exit_code=2
            ) from None
    return [row]


def _row_help(kinds: dict[str, str]) -> str:
    return "give it as " + " ".join(f"{name}={'3' if kind == 'number' else 'TEXT'}" for name, kind in kinds.items())


def _flat(prediction: dict[str, Any]) -> dict[str, Any]:
    """A prediction with its labels as one object, best first."""
    kept = {name: value for name, value in prediction.items() if name in ("label", "values", "notes")}
    ranked = prediction.get("labels", [])
    for word, many in (("probability", "probabilities"), ("score", "scores")):
        if ranked and word in ranked[0]:
            kept |= {word: ranked[0][word], many: {each["label"]: each[word] for each in ranked}}
    return kept


def _shown(prediction: dict[str, Any]) -> list[tuple[str, str]]:
    """What a table shows, best first: labels with their probabilities, or the values."""
    if "probabilities" in prediction:
        return [(label, f"{each:.1%}") for label, each in prediction["probabilities"].items()]
    values = prediction.get("scores") or prediction["values"]
    return [(name, f"{value:g}" if isinstance(value, float | int) else str(value)) for name, value in values.items()]


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


def _ask(client: httpx.Client, method: str, path: str, **content: Any) -> httpx.Response:
    try:
        answer = client.request(method, path, **content)
    except httpx.HTTPError as error:
        if _is_of_its_certificate(error):
            raise NightshiftError(
                f"the certificate of {client.base_url} is not trusted here: {error}",
                "name the authority's PEM file in NIGHTSHIFT_CA, and the host as the certificate does",
            ) from error
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
            f"{client.base_url} answers {answer.status_code}: {reason}", _HELP.get(answer.status_code, "")
        )
    return answer


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _is_of_its_certificate(error: BaseException | None) -> bool:
    """httpx says ConnectError of it, as of an endpoint that is not there; the cause is further down."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
