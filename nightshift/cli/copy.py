"""``nightshift copy MODEL DIGEST TO``: a release into another registry; with ``--all``, the backup."""

import json as json_
from typing import Annotated

import typer
from rich.console import Console

from nightshift.cli.connect import RegistryOption, connect
from nightshift.errors import NightshiftError
from nightshift.releases import copy as copies
from nightshift.releases.manifest import short
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store


def copy(
    what: Annotated[list[str], typer.Argument(metavar="MODEL DIGEST TO", help="With --all only TO: a registry.")],
    everything: Annotated[bool, typer.Option("--all", help="Every release, and the ledger: the backup.")] = False,
    to_endpoint: Annotated[str | None, typer.Option(help="S3 server of TO, when it is another one.")] = None,
    to_profile: Annotated[str | None, typer.Option(help="AWS profile of TO: another account's keys.")] = None,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="One object instead of text.")] = False,
) -> None:
    """Copy a release by its digest into another registry, every digest checked at both ends.

    A copy never changes what is there, and one that was interrupted is ended by typing it again. The ledger travels
    with --all only: in another registry a release serves when somebody promotes it there.

    Example: nightshift copy cifar10-cnn 3f9ac01b77de s3://production-registry --to-profile production

    Example: nightshift copy --all /mnt/backup/registry
    """
    if len(what) != (1 if everything else 3):
        raise NightshiftError(
            f"{' '.join(what)} is not what to copy",
            "`nightshift copy MODEL DIGEST TO`, or `nightshift copy --all TO`",
            exit_code=2,
        )
    to = what[-1]
    if (to_endpoint or to_profile) and not to.startswith("s3://"):
        raise NightshiftError(f"{to} is no bucket", "--to-endpoint and --to-profile are a bucket's", exit_code=2)
    connection = connect(registry=registry)
    source, target = connection.registry.store, open_store(to, endpoint=to_endpoint, profile=to_profile)
    if everything:
        console = Console(stderr=True)
        releases, entries = copies.everything(
            source, target, lambda line: console.print(line, markup=False, style="dim")
        )
        told = f"{releases} releases and {entries} entries of the ledger copied to {to}; the rest was there"
        answer = {"to": to, "releases": releases, "entries": entries}
    else:
        digest = connection.registry.resolve(what[0], what[1])
        copied = copies.release(connection.registry, Registry(target), what[0], digest)
        told = f"{what[0]} {short(digest)} {'copied to' if copied else 'is whole already in'} {to}"
        answer = {"to": to, "model": what[0], "digest": digest, "copied": copied}
    if json:
        typer.echo(json_.dumps(answer, indent=2))
    else:
        Console(soft_wrap=True).print(told, markup=False)
