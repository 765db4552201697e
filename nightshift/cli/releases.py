"""``nightshift releases [MODEL]``: what is published."""

import json as json_
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from nightshift.cli.connect import Connection, RegistryOption, connect
from nightshift.cli.lookup import DECISION, read, signers
from nightshift.releases.manifest import short
from nightshift.releases.marks import Marks, retired, standing
from nightshift.releases.registry import ReleaseInfo

_COLORS = {"champion": "green", "ordered": "yellow", "kept": "cyan", "retired": "dim", "signed": "blue"}


def releases(
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="A list of objects instead of a table.")] = False,
) -> None:
    """The releases in the registry: verdict, accuracy and size, which is champion, ordered, kept, retired or signed.

    Example: nightshift releases cifar10-cnn --json
    """
    connection = connect(registry=registry)
    infos = connection.registry.list(model)
    with ThreadPoolExecutor(8) as pool:
        facts = list(pool.map(partial(_facts, connection), infos))
    stands = {name: _standing(connection, name) for name in {info.model for info in infos}}
    rows = [
        {**fact, **{word: info.digest in digests for word, digests in stands[info.model].items()}}
        for info, fact in zip(infos, facts, strict=True)
    ]
    if json:
        typer.echo(json_.dumps(rows, indent=2))
        return
    console = Console()
    if not rows:
        console.print(f"{connection.registry.store.url} has no releases{f' of {model}' if model else ''} yet")
        return
    table = Table("model", "digest", "verdict", "accuracy", "size", "", box=None)
    for row in rows:
        words = ", ".join(f"[{color}]{word}[/]" for word, color in _COLORS.items() if row[word])
        accuracy = f"{row['accuracy']:.2%}" if isinstance(row["accuracy"], float) else ""
        table.add_row(row["model"], short(row["digest"]), row["verdict"], accuracy, decimal(row["bytes"]), words)
    console.print(table)


def _facts(connection: Connection, info: ReleaseInfo) -> dict[str, Any]:
    manifest = connection.registry.manifest(info.model, info.digest)
    signed = [signer for signer in signers(connection, info) if signer.valid]
    return {
        "model": info.model,
        "digest": info.digest,
        "task": manifest.task,
        "verdict": manifest.verdict,
        "accuracy": (read(connection, info, DECISION) or {}).get("accuracy"),
        "bytes": manifest.size,
        "signed": any(signer.trusted is not False for signer in signed),
        "signed_by": [signer.key for signer in signed],
    }


def _standing(connection: Connection, model: str) -> dict[str, set[str | None]]:
    """Per word the digests of a model that it is true of."""
    history, marks = connection.ledger.history(model), Marks(connection.registry.store).of(model)
    live = connection.ledger.live(model)
    ended = retired(marks)
    return {
        "champion": {live.digest} if live else set(),
        "ordered": {order.digest for order, outcome in history if outcome is None},
        "kept": {mark.digest for mark in marks if standing(marks, "keep", mark.digest)},
        "retired": ended if None not in ended else {info.digest for info in connection.registry.list(model)},
    }
