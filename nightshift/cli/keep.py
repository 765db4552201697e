"""``nightshift keep MODEL DIGEST --reason TEXT``: this release is never removed."""

import getpass
import json as json_
from typing import Annotated

import typer
from rich.console import Console

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.order import demand
from nightshift.errors import NightshiftError
from nightshift.releases.manifest import short
from nightshift.releases.marks import Marks, standing


def keep(
    model: Annotated[str, typer.Argument(help="The model.")],
    digest: Annotated[str, typer.Argument(help="The release: its digest, or the first characters of it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
    undo: Annotated[bool, typer.Option("--undo", help="Take it back: it may be removed again.")] = False,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="The mark as one object.")] = False,
) -> None:
    """Protect a release: neither `gc` nor `retire` touches it until this is undone.

    Example: nightshift keep cifar10-cnn 3f9ac01b77de --reason "the figures of the paper"
    """
    demand(reason, "keep")
    connection = connect(registry=registry)
    marks = Marks(connection.registry.store)
    full = connection.registry.resolve(model, digest)
    if undo and not standing(marks.of(model), "keep", full):
        raise NightshiftError(f"{short(full)} of {model} is not kept", "see `nightshift releases`")
    mark = marks.put(model, "keep", full, who=getpass.getuser(), reason=reason, undo=undo)
    if json:
        typer.echo(json_.dumps(mark.model_dump(mode="json"), indent=2))
    else:
        Console().print(f"{model} {short(full)} is {'no longer kept' if undo else 'kept'}: {reason}", markup=False)
