"""``nightshift signing-key``: the key that releases are signed with."""

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nightshift.cli.connect import take_settings
from nightshift.errors import NightshiftError
from nightshift.releases.signing import VARIABLE, SigningKey, own_key
from nightshift.stack.private import create_private
from nightshift.stack.signing import KEY, TRUSTED

signing_key = typer.Typer(
    no_args_is_help=True, help="The key that releases are signed with; see docs/signing.md.", add_completion=False
)


@signing_key.command()
def create(
    file: Annotated[
        Path | None, typer.Option(help="Where to; else .nightshift/signing.key of this checkout, which its nights use.")
    ] = None,
) -> None:
    """Make a key, in a file that only you can read, and print the line of its public half for `trusted_keys`.

    Example: nightshift signing-key create >> trusted_keys
    """
    target = file or _of_this_checkout()
    key = SigningKey.new()
    target.parent.mkdir(parents=True, exist_ok=True)
    if not create_private(target, key.secret + "\n"):
        raise NightshiftError(
            f"{target} is there already, and releases may be signed with it",
            "move it away first, or name another --file; docs/signing.md says how to change keys",
        )
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"{target}: only you can read it; keep a copy elsewhere", markup=False, style="dim")
    console.print(f"its public line, for {TRUSTED}:", markup=False, style="dim")
    typer.echo(f"{key.public} {getpass.getuser()} {datetime.now(UTC):%Y-%m-%d}")


def _of_this_checkout() -> Path:
    from nightshift.stack.settings import find_root  # here: where only the endpoint is installed --file makes one

    return find_root() / KEY


@signing_key.command()
def show() -> None:
    """The public half and the id of the key that is set here, by which `show` and `releases` name it."""
    take_settings("deployer")
    key = own_key(os.environ)
    if key is None:
        raise NightshiftError(f"no key is set ({VARIABLE})", "nightshift signing-key create", exit_code=2)
    Console(stderr=True).print(f"id {key.public.id}", style="dim")
    typer.echo(str(key.public))
