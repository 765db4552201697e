"""``nightshift serve``: an endpoint of this machine."""

import os
import ssl
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli.connect import take_settings
from nightshift.errors import NightshiftError, Refused


def serve(
    registry: Annotated[str | None, typer.Option(help="s3://bucket, s3://bucket/prefix or a folder.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which it is reached, beside loopback's and --host; repeatable.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may ask, as https://app.example.org; repeatable.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM); then it answers HTTPS only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key (PEM).")] = None,
    processes: Annotated[str, typer.Option(help="How many on this port: a number, or auto for one per core.")] = "1",
    cache: Annotated[Path | None, typer.Option(help="Folder of local copies of releases.")] = None,
) -> None:
    """Serve what the ledger wants, over the Open Inference Protocol v2, until SIGTERM or Ctrl-C."""
    count = len(os.sched_getaffinity(0)) if processes == "auto" else int(processes) if processes.isdecimal() else 0
    if not 1 <= count <= 256:
        raise NightshiftError(f"--processes {processes} is no number of them", "give 1 to 256, or auto", exit_code=2)
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
    tls = _tls(tls_cert, tls_key)
    hosts = [*(allow_host or []), *filter(None, os.environ.get("NIGHTSHIFT_ALLOW_HOSTS", "").split(","))]
    home = os.environ.get("NIGHTSHIFT_HOME")
    if cache is None:
        # Without a home there is nowhere to come back to: the copies last as long as this machine's temporary files.
        cache = Path(home) / "releases" if home else Path(tempfile.mkdtemp(prefix="nightshift-releases-"))
    _demand_a_key(registry, host, cache)
    raise typer.Exit(server.serve(registry, host, port, cache, home, hosts, allow_origin or (), tls, count))


def _demand_a_key(registry: str, host: str, cache: Path) -> None:
    """Beyond loopback everybody can knock: without any key nobody could be let in."""
    from nightshift.serving import guard

    keyring = guard.keyring(registry, cache)
    if host in guard.LOOPBACK or keyring.known():
        return
    keyring.step()
    if not keyring.known():
        why = f" ({keyring.problem})" if keyring.problem else ""
        raise Refused(
            f"at {host} everybody can reach the endpoint, so callers need API keys, and there is none{why}",
            "nightshift keys create NAME, or leave --host out to listen on loopback only",
        )


def _tls(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if not certificate and not key:
        return None
    if not (certificate and key):
        raise NightshiftError("--tls-cert and --tls-key go together", "give both, or neither for HTTP", exit_code=2)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise NightshiftError(
            f"{certificate} and {key} are no certificate and its key: {error}", "give PEM files that belong together"
        ) from error
    return certificate, key
