"""``nightshift what-served MODEL --at TIME``: what answered then, and why."""

import json as json_
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.lookup import clock, known_model
from nightshift.errors import NightshiftError
from nightshift.releases.ledger import Order, Outcome
from nightshift.releases.manifest import short
from nightshift.releases.marks import Marks
from nightshift.releases.moment import Moment
from nightshift.releases.moment import at as moment_at


def what_served(
    model: Annotated[str, typer.Argument(help="The model.")],
    at: Annotated[str, typer.Option(help="When, with its zone: 2026-11-24T03:12Z, 2026-11-24T04:12+01:00.")],
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of text.")] = False,
) -> None:
    """What answered at that time, by which order and why; answered from outcomes, so only what was proven counts.

    Between an order and its outcome replicas may have answered with either release: then both are named.

    Example: nightshift what-served cifar10-cnn --at 2026-11-24T03:12Z
    """
    when = _moment(at)
    connection = connect(registry=registry)
    known_model(connection, model)
    found = moment_at(connection.ledger.history(model), Marks(connection.registry.store).of(model), when)
    if json:
        typer.echo(json_.dumps(_facts(model, when, found), indent=2))
    else:
        _print(model, when, found)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise NightshiftError(f"--at {text} is no time", "write it as 2026-11-24T03:12Z", exit_code=2) from None
    if found.tzinfo is None:
        raise NightshiftError(
            f"--at {text} has no time zone",
            f"write {text}Z for UTC, or {text}+01:00 for a clock in Berlin",
            exit_code=2,
        )
    return found


def _facts(model: str, when: datetime, found: Moment) -> dict[str, Any]:
    champion = None if found.retired or not found.champion else found.champion
    return {
        "model": model,
        "at": when.isoformat(),
        "digest": champion[0].digest if champion else None,
        "order": _entry(*champion) if champion else None,
        "under_way": [_entry(*entry) for entry in found.under_way],
        "retired": found.retired.model_dump(mode="json") if found.retired else None,
    }


def _entry(order: Order, outcome: Outcome | None) -> dict[str, Any]:
    return {**order.model_dump(mode="json"), "outcome": outcome.model_dump(mode="json") if outcome else None}


def _print(model: str, when: datetime, found: Moment) -> None:
    console = Console(soft_wrap=True)
    console.print(f"[bold]{model}[/] at {clock(when)}")
    if found.retired:
        console.print(f"nothing: retired by {found.retired.who} at {clock(found.retired.at)}: {found.retired.reason}",
                      markup=False)  # fmt: skip
        return
    if found.champion:
        order, outcome = found.champion
        console.print(f"served  {order.digest}", style="green")
        console.print(
            f"by      order {order.sequence} ({order.what}) of {order.who}, proven {clock(outcome.at)}", markup=False
        )
        console.print(f"why     {order.reason}", markup=False)
        console.print(f"proof   {outcome.reason}", markup=False)
        evidence = ", ".join(f"{name} {value}" for name, value in order.evidence.items() if value is not None)
        if evidence:
            console.print(f"on      {evidence}", markup=False)
    else:
        console.print("nothing was proven by then")
    for order, later in found.under_way:
        end = f"{later.state} {clock(later.at)}: {later.reason}" if later else "without an outcome to this day"
        put = f"order {order.sequence} of {order.who}, ordered {clock(order.ordered_at)}"
        console.print(
            f"or      {short(order.digest)} by {put} and {end}: in between replicas may have answered with it",
            style="yellow",
            markup=False,
        )
