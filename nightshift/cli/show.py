"""``nightshift show DIGEST|MODEL``: one release."""

import json as json_
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.lookup import DECISION, clock, find, read, signers
from nightshift.releases.manifest import Tensor, short
from nightshift.releases.marks import WHATS, Marks, standing


def show(
    release: Annotated[str, typer.Argument(metavar="DIGEST|MODEL", help="A digest's first characters, or a model.")],
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of tables.")] = False,
) -> None:
    """One release: its files, tensors, decision, lineage, orders, marks, who signed it. A model's name: its champion.

    Example: nightshift show 3f9ac01b77de
    """
    connection = connect(registry=registry)
    info = find(connection, release)
    manifest = connection.registry.manifest(info.model, info.digest)
    orders = [
        {"sequence": order.sequence, "what": order.what, "outcome": outcome.state if outcome else None}
        for order, outcome in connection.ledger.history(info.model)
        if order.digest == info.digest
    ]
    marks = Marks(connection.registry.store).of(info.model)
    standing_ = [mark for what in WHATS for mark in (standing(marks, what, info.digest),) if mark]
    signed = signers(connection, info)
    facts: dict[str, Any] = {
        **manifest.model_dump(mode="json"),
        "digest": info.digest,
        "decision": read(connection, info, DECISION),
        "orders": orders,
        "signers": [asdict(signer) for signer in signed],
        "marks": [mark.model_dump(mode="json") for mark in standing_],
    }
    if json:
        typer.echo(json_.dumps(facts, indent=2))
        return
    console = Console()
    console.print(f"[bold]{info.model}[/]  {info.digest}")
    console.print(f"{manifest.task}, verdict [bold]{manifest.verdict}[/], model digest {short(manifest.model_digest)}")
    for order in orders:
        console.print(f"order {order['sequence']}: {order['what']}, {order['outcome'] or 'no outcome yet'}")
    for signer in signed:
        worth = "" if signer.trusted is None else ", trusted" if signer.trusted else ", not trusted here"
        console.print(f"signed with {signer.key}{worth if signer.valid else ': not valid'}", markup=False)
    for mark in standing_:
        console.print(f"{mark.what} by {mark.who} at {clock(mark.at)}: {mark.reason}", markup=False)
    table = Table("file", "size", "sha256", box=None)
    for file in manifest.files:
        table.add_row(file.path, decimal(file.size), short(file.sha256))
    console.print(table)
    console.print(f"takes   {_tensors(manifest.signature.inputs)}")
    console.print(f"answers {_tensors(manifest.signature.outputs)}")
    for reason in (facts["decision"] or {}).get("reasons", []):
        console.print(f"decision: {escape(str(reason))}")
    console.print("lineage:")
    console.print_json(data=manifest.lineage)


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    return escape(", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in tensors))
