"""``nightshift serve``: an endpoint of this machine."""

import atexit
import os
import shutil
import ssl
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.connect import take_settings
from nightshift.errors import NightshiftError, Refused

if TYPE_CHECKING:
    from nightshift.releases.signing import Trust
    from nightshift.serving.samples import Plan


class Log(StrEnum):
    auto = "auto"
    text = "text"
    json = "json"


class Level(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"


def serve(
    registry: Annotated[str | None, typer.Option(help="s3://bucket, s3://bucket/prefix or a folder.")] = None,
    releases: Annotated[
        Path | None, typer.Option(help="Instead of a registry: a folder that holds one release of each model.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen at; 8000 if left out.")] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port for gRPC: 8001 if --port is left out too, else none. 0: none."),
    ] = None,
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
    trust: Annotated[
        Path | None,
        typer.Option(help="Serve only what a key of this file signed; else NIGHTSHIFT_TRUSTED_KEYS names them."),
    ] = None,
    log: Annotated[Log, typer.Option(help="Lines for people, JSON for machines; auto: text at a terminal.")] = Log.auto,
    log_level: Annotated[Level, typer.Option(help="info: every inference; warning: what needs somebody.")] = Level.info,
    sample_rate: Annotated[
        list[str] | None,
        typer.Option(help="Share of the requests to keep with their answers (0.01, MODEL=0.1); repeatable."),
    ] = None,
    sample_leave_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Left out of it: inputs, outputs, key, input:NAME, output:NAME, MODEL=any of these; repeatable."
        ),
    ] = None,
    sample_days: Annotated[
        int, typer.Option(envvar="NIGHTSHIFT_SAMPLE_DAYS", min=1, help="Days that samples are kept; older ones go.")
    ] = 90,
) -> None:
    """Serve what the ledger wants, over the Open Inference Protocol v2, until SIGTERM or Ctrl-C."""
    count = len(os.sched_getaffinity(0)) if processes == "auto" else int(processes) if processes.isdecimal() else 0
    if not 1 <= count <= 256:
        raise NightshiftError(f"--processes {processes} is no number of them", "give 1 to 256, or auto", exit_code=2)
    if registry is None and releases is None:
        take_settings("endpoint")
        registry = os.environ.get("NIGHTSHIFT_REGISTRY")
    trusted = _trust(trust)
    leaving = ExitStack()
    atexit.register(leaving.close)  # also when it does not come to serve
    if releases is not None:
        registry = _registry_of(releases, registry, leaving)
    if not registry:
        raise NightshiftError(
            "no registry is set",
            "give --registry s3://bucket or a folder, --releases FOLDER, or run this in a checkout after `make up`",
            exit_code=2,
        )
    try:
        from nightshift.serving import server
    except ImportError as error:
        raise NightshiftError(
            f"the endpoint lacks {error.name}", "pip install '.[serve]' in a clone of the repository"
        ) from error
    if grpc_port is None and port is None:
        grpc_port = 8001
    port = port or 8000
    for option, wanted in (("--port", port), ("--grpc-port", grpc_port)):
        if wanted and server.is_taken(host, wanted):
            raise NightshiftError(
                f"{host}:{wanted} is taken or no address of this machine",
                f"stop what listens there, or choose another {option}",
            )
    if port == grpc_port:
        raise NightshiftError(f"--port and --grpc-port are both {port}", "choose another for one of them", exit_code=2)
    tls = _tls(tls_cert, tls_key)
    hosts = [*(allow_host or []), *filter(None, os.environ.get("NIGHTSHIFT_ALLOW_HOSTS", "").split(","))]
    home = os.environ.get("NIGHTSHIFT_HOME")
    if cache is None:
        # Without a home there is nowhere to come back to: the copies last as long as this process.
        cache = Path(home) / "releases" if home else _temporary("releases", leaving)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NightshiftError(
            f"--cache {cache}: {error.strerror}", "give a folder that can be written", exit_code=2
        ) from None
    _demand_a_key(registry, host, cache)
    settings = server.Settings(
        registry=registry,
        host=host,
        port=port,
        copies=cache,
        checkout=home,
        hosts=hosts,
        origins=allow_origin or (),
        tls=tls,
        grpc_port=grpc_port,
        count=count,
        log_level=log_level.value,
        log_json=None if log is Log.auto else log is Log.json,
        plan=_plan(sample_rate, sample_leave_out, sample_days, registry),
        trust=trusted,
    )
    status = server.serve(settings)
    leaving.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a thread that still loads a release is inside ONNX Runtime, and would abort if Python went first


def _registry_of(folder: Path, registry: str | None, leaving: ExitStack) -> str:
    """A registry of the folder's releases, which lasts as long as this process."""
    from nightshift.releases.folder import registry_of

    if registry is not None:
        raise NightshiftError("--releases and --registry both say what to serve", "give one of them", exit_code=2)
    into = _temporary("registry", leaving)
    for model, digest in registry_of(folder, into).items():
        typer.echo(f"{model}: {digest[:12]}, the one release in {folder}", err=True)
    return str(into)


def _temporary(what: str, leaving: ExitStack) -> Path:
    """A folder that is gone when this process has ended, and not when one of its workers has."""
    folder = Path(tempfile.mkdtemp(prefix=f"nightshift-{what}-"))
    leaving.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _trust(file: Path | None) -> "Trust | None":
    """Set to nothing is a mistake, no wish to trust everybody."""
    from nightshift.releases.errors import StoreUnavailable
    from nightshift.releases.signing import TRUSTED, Trust

    if file is None and TRUSTED not in os.environ:
        return None
    trust = Trust(file or os.environ[TRUSTED])
    try:
        trust.read()
    except StoreUnavailable as error:
        raise NightshiftError(error.message, error.next_step, exit_code=2) from None
    return trust


def _plan(rates: list[str] | None, leave_out: list[str] | None, days: int, registry: str) -> "Plan":
    """What is typed, else what the environment says, in which commas separate."""
    from nightshift.serving import places, samples

    rates, leave_out = rates or _listed("NIGHTSHIFT_SAMPLE_RATE"), leave_out or _listed("NIGHTSHIFT_SAMPLE_LEAVE_OUT")
    try:
        plan = samples.plan(rates, leave_out, days)
    except ValueError as error:
        raise NightshiftError(str(error), "see nightshift serve --help", exit_code=2) from None
    if plan and not places.place("served", registry):
        raise NightshiftError(
            "samples are to be kept, but there is no place for them",
            "set NIGHTSHIFT_SERVED to a bucket or folder, as s3://nightshift-served",
            exit_code=2,
        )
    return plan


def _listed(variable: str) -> list[str]:
    return [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]


def _demand_a_key(registry: str, host: str, cache: Path) -> None:
    """Beyond loopback everybody can knock: without any key nobody could be let in."""
    from nightshift.serving import guard
    from nightshift.serving.hosts import LOOPBACK

    if host in LOOPBACK or guard.keyring(registry, cache).known():
        return
    # In a process of its own: the client of S3 outlives no fork, and the endpoint's processes are forked from this one.
    with ProcessPoolExecutor(1) as pool:
        known, problem = pool.submit(_read_keys, registry, cache).result()
    if not known:
        why = f" ({problem})" if problem else ""
        raise Refused(
            f"at {host} everybody can reach the endpoint, so callers need API keys, and there is none{why}",
            f"NIGHTSHIFT_REGISTRY={registry} nightshift keys create NAME, "
            "or leave --host out to listen on loopback only",
        )


def _read_keys(registry: str, cache: Path) -> tuple[bool, str | None]:
    """Whether there is any key, and what kept it from being read."""
    from nightshift.serving import guard

    keyring = guard.keyring(registry, cache)
    keyring.step()
    return bool(keyring.known()), keyring.problem


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
