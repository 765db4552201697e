"""``nightshift verify [MODEL [DIGEST]]``: every digest of the registry, computed again."""

import json as json_
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress, SpinnerColumn, TextColumn

from nightshift.cli.connect import RegistryOption, connect
from nightshift.cli.lookup import known_model
from nightshift.releases.verify import Checked, check


def verify(
    model: Annotated[str | None, typer.Argument(help="Only this model; without it, the whole registry.")] = None,
    digest: Annotated[str | None, typer.Argument(help="Only this release of it.")] = None,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object: how much was read, and what is wrong.")] = False,
) -> None:
    """Read every byte of the registry, compute every digest again, and name all that is wrong.

    Releases: size and sha256 of each file, the manifest's digest, the model digest, each signature.
    Ledger: each entry's checksum, and that no order is missing. Exit status: 0 all is whole, 1 something is not.

    Example: nightshift verify --registry /mnt/backup/registry
    """
    connection = connect(registry=registry)
    if model:
        known_model(connection, model)
    full = connection.registry.resolve(model, digest) if model and digest else None
    objects = size = 0
    terminal = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    )
    with bar:
        task = bar.add_task("reading")

        def seen(checked: Checked) -> None:
            nonlocal objects, size
            objects, size = objects + 1, size + checked.bytes
            bar.update(task, description=f"{objects} objects, {decimal(size)}: {checked.key}")

        wrong = check(connection.registry.store, model, full, seen)
    if json:
        bad = [{"key": each.key, "wrong": each.wrong} for each in wrong]
        typer.echo(json_.dumps({"objects": objects, "bytes": size, "wrong": bad}, indent=2))
    else:
        console = Console(soft_wrap=True)
        for each in wrong:
            console.print(f"{connection.registry.store.url}/{each.key} {each.wrong}", style="red", markup=False)
        whole = f"{len(wrong)} of {objects} objects are wrong" if wrong else f"all {objects} objects are whole"
        console.print(f"{whole}, {decimal(size)} read", markup=False)
        if wrong:
            console.print("  next: `nightshift copy` the release from a backup, after removing what is stored there")
    raise typer.Exit(1 if wrong else 0)
