"""``nightshift sign MODEL DIGEST``: vouch for a release."""

import json as json_
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nightshift.cli.connect import RegistryOption, connect
from nightshift.errors import NightshiftError
from nightshift.releases import signing
from nightshift.releases.manifest import short
from nightshift.releases.registry import Registry, ReleaseInfo


def sign(
    model: Annotated[str | None, typer.Argument(help="The model.")] = None,
    digest: Annotated[str | None, typer.Argument(help="The release: its digest, or the first characters.")] = None,
    signed_by: Annotated[
        Path | None, typer.Option(help="Instead: every release that a key of this file signed; to change keys.")
    ] = None,
    registry: RegistryOption = None,
    json: Annotated[bool, typer.Option("--json", help="A list of objects: model, digest, signed now or not.")] = False,
) -> None:
    """Sign a release's manifest with the key in NIGHTSHIFT_SIGNING_KEY, or with this checkout's; nothing is ordered.

    `promote` and a night's deploy sign what they order; this is for what was there before, and for changing keys.

    Example: nightshift sign cifar10-cnn 3f9ac01b77de

    Example: nightshift sign --signed-by trusted_keys
    """
    connection = connect(registry=registry)
    if (model is None) == (signed_by is None) or (model is None) != (digest is None):
        raise NightshiftError(
            "nothing says what to sign", "`nightshift sign MODEL DIGEST`, or --signed-by FILE", exit_code=2
        )
    key = signing.own_key(os.environ)
    if key is None:
        raise NightshiftError(
            f"there is no key to sign with ({signing.VARIABLE})", "nightshift signing-key create", exit_code=2
        )
    releases = connection.registry
    infos = (
        _signed(releases, signing.Trust(signed_by))
        if signed_by
        else [ReleaseInfo(model or "", releases.resolve(model or "", digest or ""))]
    )
    rows = [{**vars(info), "signed": signing.sign(releases, info.model, info.digest, key)} for info in infos]
    if json:
        typer.echo(json_.dumps([{**row, "key": key.public.id} for row in rows], indent=2))
        return
    for row in rows:
        was = "is signed" if row["signed"] else "was signed before"
        Console().print(f"{row['model']} {short(str(row['digest']))} {was} with {key.public.id}", markup=False)
    if not rows:
        Console().print(f"no release is signed by a key of {signed_by}", markup=False)


def _signed(releases: Registry, trust: signing.Trust) -> list[ReleaseInfo]:
    return [
        info
        for info in releases.list()
        if trust.voucher(
            releases.signatures(info.model, info.digest),
            info.model,
            info.digest,
            releases.manifest_bytes(info.model, info.digest),
        )
    ]
