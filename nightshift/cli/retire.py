"""``nightshift retire MODEL [DIGEST] --reason TEXT``: it is never ordered again."""

import getpass
import json as json_
from typing import Annotated

import typer
from rich.console import Console

from nightshift.cli.connect import Connection, RegistryOption, connect
from nightshift.cli.order import demand
from nightshift.errors import NightshiftError
from nightshift.releases import proof
from nightshift.releases.ledger import Outcome, now
from nightshift.releases.manifest import short
from nightshift.releases.marks import Marks, standing


def retire(
    model: Annotated[str, typer.Argument(help="The model.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger, and whoever asks is told.")],
    digest: Annotated[str | None, typer.Argument(help="Only this release; without it, the whole model.")] = None,
    successor: Annotated[str | None, typer.Option(help="The model to ask instead.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="The mark as one object.")] = False,
) -> None:
    """End a model, or one release of it: no night and no person orders it again; `gc` may remove a retired release.

    A retired model stops answering: endpoints say 410 and name the successor. A release that serves, is on its way or
    is kept cannot be retired (exit status 3).

    Example: nightshift retire cifar10-mlp --successor cifar10-cnn --reason "the network is better in every class"
    """
    demand(reason, "retirement")
    connection = connect(registry=registry)
    marks = Marks(connection.registry.store)
    full = connection.registry.resolve(model, digest) if digest else None
    what = f"{model} {short(full)}" if full else model
    if not full and not connection.ledger.newest(model) and not connection.registry.list(model):
        raise NightshiftError(f"there is no model {model} in {connection.registry.store.url}", "`nightshift releases`")
    if undo and not standing(marks.of(model), "retire", full):
        raise NightshiftError(f"{what} is not retired", "see `nightshift releases`")
    if full and not undo:
        _demand_free(connection, marks, model, full)
    mark = marks.put(
        model, "retire", full, who=getpass.getuser(), reason=reason, undo=undo, successor=None if undo else successor
    )
    if not full:
        _tell(connection, model, f"{model} was retired: {reason}", ended=not undo)
    if json:
        typer.echo(json_.dumps(mark.model_dump(mode="json"), indent=2))
    else:
        Console().print(f"{what} is {'no longer retired' if undo else 'retired'}: {reason}", markup=False)


def _demand_free(connection: Connection, marks: Marks, model: str, digest: str) -> None:
    """Raises NightshiftError (a rule) for a release that somebody still counts on."""
    if standing(marks.of(model), "keep", digest):
        raise NightshiftError(
            f"{short(digest)} of {model} is kept",
            f"`nightshift keep {model} {short(digest)} --undo --reason …` first",
            exit_code=3,
        )
    live = connection.ledger.live(model)
    open_ = [order for order, outcome in connection.ledger.history(model) if outcome is None]
    if digest in {order.digest for order in (*open_, *((live,) if live else ()))}:
        raise NightshiftError(
            f"{short(digest)} of {model} serves or is on its way",
            f"make another serve first: `nightshift rollback {model} --reason …`",
            exit_code=3,
        )


def _tell(connection: Connection, model: str, reason: str, *, ended: bool) -> None:
    """The endpoints read the ledger now; orders on their way end."""
    for order, outcome in connection.ledger.history(model) if ended else []:
        if outcome is None:
            refusal = Outcome(state="refused", reason=reason, fault="endpoint", at=now())
            connection.ledger.settle(order, refusal)
    with proof.http_client(timeout_s=5) as client:
        for url in connection.endpoints:
            proof.tell(client, url)
