"""``nightshift housekeeping``: remove by age what old runs left in the work bucket."""

import json as json_
from typing import Annotated

import typer

from nightshift.cli.connect import take_settings
from nightshift.engine import housekeeping as work


def housekeeping(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: Annotated[bool, typer.Option("--json", help="How many of each kind, and no more.")] = False,
) -> None:
    """Remove by age what old runs left in S3; the DAG of the same name does it every hour."""
    take_settings("worker")
    say = (lambda _: None) if json else typer.echo
    receipt = work.housekeeping(dry_run=dry_run, say=say)
    typer.echo(json_.dumps(receipt.details) if json else receipt.message)
