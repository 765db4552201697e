"""``nightshift drop DATASET DAY``: take a day out for good, held or in the snapshot."""

import json as json_module
from typing import Annotated

import typer

from nightshift.cli.days import Decision, decide, named


def drop(
    dataset: Annotated[str, typer.Argument(help="The data set.")],
    day: Annotated[str, typer.Argument(metavar="YYYY-MM-DD", help="A held day, or one of the snapshot.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the day.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Take a day out: the next night removes it from the snapshot, if it is in, and trains without it.

    It holds for exactly these files: replaced ones are a new day. `accept` takes it back.
    """
    found = decide(dataset, day, Decision.DROP, reason)
    if json:
        typer.echo(json_module.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.echo(f"{named(found)} is dropped: the next night goes on without it")
    typer.echo("  next: nightshift night")
