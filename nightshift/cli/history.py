"""``nightshift history MODEL``: what served when, and why."""

import json as json_
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.lookup import known_model
from nightshift.releases.manifest import short

_COLORS = {"proven": "green", "refused": "red", "superseded": "dim"}


def history(
    model: Annotated[str, typer.Argument(help="The model.")],
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="A list of objects, oldest first.")] = False,
) -> None:
    """Every order of a model with its outcome, oldest first: what served when, and why.

    Example: nightshift history cifar10-cnn --json
    """
    connection = connect(registry=registry)
    known_model(connection, model)
    entries = connection.ledger.history(model)
    if json:
        rows = [
            {**order.model_dump(mode="json"), "outcome": outcome.model_dump(mode="json") if outcome else None}
            for order, outcome in entries
        ]
        typer.echo(json_.dumps(rows, indent=2))
        return
    table = Table("order", "when (UTC)", "release", "what", "who", "reason", "outcome", box=None)
    for order, outcome in entries:
        state = f"[{_COLORS[outcome.state]}]{outcome.state}[/] {escape(outcome.reason)}" if outcome else "none yet"
        when = f"{order.ordered_at:%Y-%m-%d %H:%M:%S}"
        what = f"{order.what}, canary {order.canary.weight:.0%}" if order.canary else order.what
        who, why = escape(order.who), escape(order.reason)
        table.add_row(str(order.sequence), when, short(order.digest), what, who, why, state)
    Console().print(table)
