"""``nightshift releases [MODEL]``: what is published."""

import json as json_
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from nightshift.cli.connect import connect
from nightshift.releases.manifest import short


def releases(
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="A list of objects instead of a table.")] = False,
) -> None:
    """The releases in the registry, with the gate's verdict, and which of them is champion."""
    connection = connect()
    champions: dict[str, str | None] = {}
    rows = []
    for info in connection.registry.list(model):
        if info.model not in champions:
            live = connection.ledger.live(info.model)
            champions[info.model] = live.digest if live else None
        manifest = connection.registry.manifest(info.model, info.digest)
        rows.append(
            {
                "model": info.model,
                "digest": info.digest,
                "task": manifest.task,
                "verdict": manifest.verdict,
                "bytes": manifest.size,
                "champion": champions[info.model] == info.digest,
            }
        )
    if json:
        typer.echo(json_.dumps(rows, indent=2))
        return
    console = Console()
    if not rows:
        console.print(f"{connection.registry.store.url} has no releases{f' of {model}' if model else ''} yet")
        return
    table = Table("model", "digest", "verdict", "size", "", box=None)
    for row in rows:
        mark = "[green]champion[/]" if row["champion"] else ""
        size = decimal(int(str(row["bytes"])))
        table.add_row(str(row["model"]), short(str(row["digest"])), str(row["verdict"]), size, mark)
    console.print(table)
