"""``nightshift serve``: an endpoint of this machine."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli.connect import take_settings
from nightshift.errors import NightshiftError


def serve(
    registry: Annotated[str | None, typer.Option(help="s3://bucket, s3://bucket/prefix or a folder.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    cache: Annotated[Path | None, typer.Option(help="Folder of local copies of releases.")] = None,
) -> None:
    """Serve what the ledger wants, over the Open Inference Protocol v2, until SIGTERM or Ctrl-C."""
    if registry is None:
        take_settings("endpoint")
        registry = os.environ.get("NIGHTSHIFT_REGISTRY")
    if not registry:
        raise NightshiftError(
            "no registry is set",
            "give --registry s3://bucket or a folder, or run this in a checkout after `make up`",
            exit_code=2,
        )
    try:
        from nightshift.serving import server
    except ImportError as error:
        raise NightshiftError(f"the endpoint lacks {error.name}", "pip install 'nightshift-ml[serve]'") from error
    if server.is_taken(host, port):
        raise NightshiftError(
            f"{host}:{port} is taken or no address of this machine", "stop what listens there, or choose another --port"
        )
    home = os.environ.get("NIGHTSHIFT_HOME")
    if cache is None:
        # Without a home there is nowhere to come back to: the copies last as long as this machine's temporary files.
        cache = Path(home) / "releases" if home else Path(tempfile.mkdtemp(prefix="nightshift-releases-"))
    server.serve(registry, host, port, cache, home)
