"""``nightshift promote MODEL DIGEST --reason TEXT``: a person's force."""

from typing import Annotated

import typer

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.order import demand, order


def promote(
    model: Annotated[str, typer.Argument(help="The model.")],
    digest: Annotated[str, typer.Argument(help="The release: its digest, or the first characters of it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger, beside the gate's verdict.")],
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of text.")] = False,
) -> None:
    """Make this release serve, whatever the gate said of it, and prove it.

    The rules that bind nights do not bind a person: an order is put, and lifts the bar of a model that was rolled back.
    Exit status: 0 proven (or superseded by a newer order), 1 refused: then the release before serves on.

    Example: nightshift promote cifar10-cnn 3f9ac01b77de --reason "the gate lacked rows; checked by hand"
    """
    demand(reason, "promotion")
    connection = connect(registry=registry)
    order(connection, model, connection.registry.resolve(model, digest), "promote", reason, as_json=json)
