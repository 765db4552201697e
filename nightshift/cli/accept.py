"""``nightshift accept DATASET DAY``: let a day in that validation refused."""

import json as json_module
from typing import Annotated

import typer

from nightshift.cli.days import Decision, decide, named


def accept(
    dataset: Annotated[str, typer.Argument(help="The data set.")],
    day: Annotated[str, typer.Argument(metavar="YYYY-MM-DD", help="The held day.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the day, and shown on its report.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Let a held day in: the next night takes it, and what speaks against it alone is a warning.

    It holds for exactly these files; replaced ones are judged anew.
    """
    found = decide(dataset, day, Decision.ACCEPT, reason)
    if json:
        typer.echo(json_module.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.echo(f"{named(found)} is let in: the next night takes it")
    typer.echo("  next: nightshift night")
