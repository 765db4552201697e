"""``nightshift trace DIGEST|REQUEST-ID``: from an answer back to its data."""

import json as json_
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nightshift.cli.connect import Connection, RegistryOption, connect, environment, store_of
from nightshift.engine.trace import Link, links
from nightshift.errors import NightshiftError
from nightshift.releases import golden
from nightshift.releases.errors import ReleaseError, ReleaseUnknown
from nightshift.releases.manifest import GOLDEN, PROGRAM, short

_COLORS = {"whole": "green", "broken": "bold red", "unchecked": "yellow"}


def trace(
    what: Annotated[str, typer.Argument(metavar="DIGEST|REQUEST-ID", help="A release, or the id of a request.")],
    at: Annotated[str | None, typer.Option(help="When a request was answered, about: it is found sooner.")] = None,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="A list of links.")] = False,
) -> None:
    """Follow a release, or an answer that was sampled, back to code and data; compute each digest on the way again.

    Release, order and outcome, decision, evaluation, the champion it met, training, the days with source and licence,
    the commit. Exit status: 0 nothing is broken (what could not be looked at is named), 1 a link is broken.

    Example: nightshift trace 3f9ac01b77de

    Example: nightshift trace 01JD2Z6E4T --at 2026-11-24T03:12Z
    """
    typed = dict(os.environ)
    connection = connect(registry=registry)
    console, found = Console(soft_wrap=True), []
    with Console(stderr=True).status("") as status:
        for link in _chain(connection, typed, what, at, lambda line: status.update(f"looking at {line}")):
            found.append(link)
            if not json:
                console.print(f"[{_COLORS[link.state]}]{link.state:<9}[/] [bold]{link.name:<10}[/] ", end="")
                console.print(link.said, markup=False)
    broken = next((link for link in found if link.state == "broken"), None)
    if json:
        typer.echo(json_.dumps([asdict(link) for link in found], indent=2, default=str))
    elif broken:
        console.print(f"the first broken link is {broken.name}", style="bold red")
    raise typer.Exit(1 if broken else 0)


def _chain(
    connection: Connection, typed: Mapping[str, str], what: str, at: str | None, say: Callable[[str], None]
) -> Iterator[Link]:
    if re.fullmatch(r"[0-9a-f]{4,64}", what):
        try:
            info = connection.registry.find(what)
        except ReleaseUnknown:
            if len(what) == 64:
                raise
        else:
            yield from links(connection.registry, info.model, info.digest, say)
            return
    say("the samples")
    with environment(typed):  # samples are read by another identity than the registry: settings are taken anew
        row = _sampled(what, at)
    yield _answer(connection, row)
    yield from links(connection.registry, row["model"], row["digest"], say)


def _sampled(request: str, at: str | None) -> dict[str, Any]:
    """The sample of a request. Raises NightshiftError when it was not sampled."""
    from nightshift.serving import sample_files

    around = None
    if at:
        try:
            around = datetime.fromisoformat(at)
        except ValueError:
            raise NightshiftError(f"--at {at} is no time", "write it as 2026-11-24T03:12Z", exit_code=2) from None
        around = around if around.tzinfo else around.replace(tzinfo=UTC)
    row = sample_files.find(store_of("served"), request, around)
    if row is None:
        raise NightshiftError(
            f"{request} is no release, and no sample of a request has this id",
            "a request can be traced when it was sampled; else trace the digest that its answer named, or ask "
            "`nightshift what-served MODEL --at TIME`",
        )
    return row


def _answer(connection: Connection, row: dict[str, Any]) -> Link:
    """The sampled answer, computed again by the release that gave it."""
    facts = {name: row[name] for name in ("time", "request_id", "model", "digest", "role", "status", "protocol")}
    said = f"{row['time']:%Y-%m-%d %H:%M:%S} UTC, status {row['status']}, by {row['model']} {short(row['digest'])}"
    try:
        wrong = _recomputed(connection, row)
    except LookupError as why:
        return Link("answer", "unchecked", f"{said}; {why}", facts)
    except ReleaseError as error:
        return Link("answer", "broken", f"{said}; {error.message}", facts)
    return Link("answer", "broken" if wrong else "whole", f"{said}; {wrong or 'computed again, it agrees'}", facts)


def _recomputed(connection: Connection, row: dict[str, Any]) -> str | None:
    """What differs between the sampled answer and what the program answers now; LookupError when that is unknown."""
    from nightshift.serving import sample_files

    inputs = {tensor["name"]: sample_files.array(tensor) for tensor in row["inputs"] or []}
    outputs = {tensor["name"]: sample_files.array(tensor) for tensor in row["outputs"] or []}
    if not inputs or not outputs or any(value is None for value in (*inputs.values(), *outputs.values())):
        raise LookupError("its tensors were not kept, so it was not computed again")
    try:
        import numpy as np
        import onnxruntime
    except ImportError as missing:
        raise LookupError(f"{missing.name} is not installed, so it was not computed again") from missing
    tolerance = golden.load(connection.registry.read(row["model"], row["digest"], GOLDEN)).tolerance
    with tempfile.TemporaryDirectory(prefix="nightshift-trace-") as scratch:
        folder = connection.registry.fetch(row["model"], row["digest"], Path(scratch))
        session = onnxruntime.InferenceSession(folder / PROGRAM, providers=["CPUExecutionProvider"])
        names = sorted(outputs)
        for name, now in zip(names, session.run(names, inputs), strict=True):
            then: Any = outputs[name]
            close = np.isclose(now, then, 0, tolerance) if np.issubdtype(now.dtype, np.floating) else now == then
            if not np.all(close):
                return f"computed again, {name} is another (tolerance {tolerance})"
    return None
