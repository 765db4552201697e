"""What will stop a night: keys, buckets, the branch, Airflow, the endpoint, the disk, the tool chain.

Each check gives findings: with ``ok`` False they stop the night, with None they are worth knowing. Nothing is written.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightshift import preflight
from nightshift.cli.connect import environment
from nightshift.engine.forecast import MAY, WILL
from nightshift.engine.repository import Repository
from nightshift.engine.settings import setting
from nightshift.errors import NightshiftError
from nightshift.preflight import Finding
from nightshift.releases import proof
from nightshift.releases.errors import ReleaseError, StoreDenied
from nightshift.releases.signing import TRUSTED, Trust, own_key
from nightshift.releases.store import open_store
from nightshift.stack import airflow, repository, toolchain
from nightshift.stack.lifecycle import NAMES
from nightshift.stack.runs import Airflow
from nightshift.stack.settings import Stack

NO_GPU = "no GPU that torch can use (params.yaml: accelerator: gpu)"
COPIES = 3  # of what a stage makes: in its workspace, in this machine's cache, and on the S3 server, when that is here


@dataclass(frozen=True)
class Tip:
    """The commit that a night would run."""

    commit: str
    branch: str
    tree: bytes
    blobs: Mapping[str, str]
    findings: list[Finding] = field(default_factory=list)


def tip(root: Path) -> Tip:
    """The tip of the nights' branch, or the checkout's commit when that is ahead: a night pushes it first.

    Raises:
        NightshiftError: the checkout is on no branch, or the repository cannot be read.
    """
    name = os.environ.get("NIGHTSHIFT_BRANCH") or repository.branch(root)
    here = Repository(root)
    head = here.git("rev-parse", "HEAD").decode().strip()
    found = [
        Finding("edits", None, f"{file} has edits that are not committed; a night runs what is committed")
        for file in repository.edited(root)
    ]
    where = os.environ.get("NIGHTSHIFT_REPO", "")
    if not where or (where.startswith("/") and not (Path(where) / "HEAD").exists()):
        return Tip(head, name, here.archive(head), here.blobs(head), found)
    with Repository.open(where) as bare:
        there = bare.find(f"refs/heads/{name}")
        common = _common(here, head, bare, there) if there else None
        if there and common == head:
            return Tip(there, name, bare.archive(there), bare.blobs(there), found)
        if there and common != there:
            found.append(
                Finding(
                    "branch",
                    False,
                    f"your branch {name} and the nights' record have both moved since they last met",
                    f"git pull --rebase {repository.REMOTE} {name}",
                )
            )
            return Tip(there, name, bare.archive(there), bare.blobs(there), found)
        scheduled = f"the schedule alone would run {there[:12]}" if there else "the schedule alone has nothing to run"
        words = f"this checkout's commit {head[:12]} is not pushed yet: `nightshift night` pushes it, {scheduled}"
        found.append(Finding("branch", None, words))
        return Tip(head, name, here.archive(head), here.blobs(head), found)


def _common(here: Repository, head: str, bare: Repository, there: str) -> str | None:
    """The commit where the two last met. Nothing is fetched: each repository's objects are looked up in both."""
    objects = bare.git("rev-parse", "--git-path", "objects").decode().strip()
    both = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str((bare.folder / objects).absolute())}
    try:
        return here.git("merge-base", head, there, environment=both).decode().strip()
    except NightshiftError:
        return None  # they never met


def keys(stack: Stack | None) -> list[Finding]:
    """The two identities of a night's tasks, each against what it must read and write."""
    found = []
    worker = stack.environment("worker") if stack else {}
    deployer = stack.environment("deployer") if stack else _deployer()
    for identity, settings, writes, reads in (
        ("worker", worker, "NIGHTSHIFT_WORK", "NIGHTSHIFT_REGISTRY"),
        ("deployer", deployer, "NIGHTSHIFT_REGISTRY", None),
    ):
        with environment({**os.environ, **settings}):
            try:
                open_store(setting(writes)).demand_write()
                if reads:
                    open_store(setting(reads)).exists("checks/nothing")
            except NightshiftError as error:
                found.append(Finding("keys", False, error.message, error.next_step))
            except ReleaseError as error:
                whose = f"the {identity}'s keys" if isinstance(error, StoreDenied) else "S3"
                found.append(Finding("keys", False, f"{whose}: {error.message}", error.next_step))
    return found


def signing(stack: Stack | None, models: Any) -> list[Finding]:
    """Whether the night can sign what must be signed, and whether this machine's endpoint trusts that key.

    ``models`` is the section of params.yaml, which another project may fill in its own way.
    """
    try:
        key = own_key(stack.environment("deployer") if stack else os.environ)
        trusted = stack.environment("endpoint").get(TRUSTED) if stack else None
        trusts = Trust(trusted).read() if trusted else []
    except (NightshiftError, ReleaseError) as error:
        return [Finding("signing", False, error.message, error.next_step)]
    said = {name: model.get("deploy") for name, model in models.items()} if isinstance(models, dict) else {}
    must = [name for name, policy in said.items() if policy and policy.get("signed") == "required"]
    if must and key is None:
        words = f"the releases of {', '.join(must)} must be signed, and there is no key"
        return [Finding("signing", False, words, "nightshift signing-key create")]
    if trusts and (key is None or key.public not in trusts):
        words = f"trusted_keys does not name {f'the key {key.public.id}' if key else 'any key of the nights'}"
        return [Finding("signing", False, f"{words}: the endpoint will refuse what they deploy", "docs/signing.md")]
    return []


def _deployer() -> dict[str, str]:
    """As a deploy task takes it from its environment."""
    key = os.environ.get("NIGHTSHIFT_DEPLOYER_ACCESS_KEY_ID")
    if not key:
        return {}
    secret = os.environ.get("NIGHTSHIFT_DEPLOYER_SECRET_ACCESS_KEY", "")
    return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}


def services(stack: Stack | None) -> list[Finding]:
    """The stack of this machine, when some of it runs; and the endpoint's replicas."""
    if stack is None and not os.environ.get("NIGHTSHIFT_WORK"):
        words = "no stack was ever started here: S3, Airflow and the endpoint were not asked"
        return [Finding("stack", None, words, "nightshift up")]
    if stack is None:
        note = Finding("airflow", None, "this checkout has no Airflow of its own; none was asked")
        return [note, *endpoint(os.environ.get("NIGHTSHIFT_ENDPOINTS", ""))]
    pids = {name: stack.processes.running(name) for name in NAMES}
    if not any(pids.values()):
        return [
            Finding("stack", None, "the stack is down: S3, Airflow and the endpoint were not asked", "nightshift up")
        ]
    dead = [NAMES[name] for name, pid in pids.items() if not pid]
    found = [Finding("stack", False, f"does not run: {', '.join(dead)}", "nightshift up")] if dead else []
    if pids[airflow.API]:
        found += _airflow(stack, scheduler=bool(pids[airflow.SCHEDULER]))
    return found + (endpoint(stack.endpoint_url) if pids["endpoint"] else [])


def _airflow(stack: Stack, *, scheduler: bool) -> list[Finding]:
    try:
        client = Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)
        found = [
            Finding("airflow", False, f"{name} is paused", f"unpause it at {stack.airflow_url}/dags/{name}")
            for name, dag in sorted(client.dags().items())
            if dag["is_paused"]
        ]
        found += [
            Finding("airflow", None, f"{name} has a run that has not ended; a night's waits behind it")
            for name in sorted(client.dags())
            if client.active(name)
        ]
        if scheduler and not client.scheduler_is_well():
            found.append(Finding("airflow", False, "the scheduler has not been heard of lately", "nightshift up"))
    except NightshiftError as error:
        return [Finding("airflow", False, error.message, error.next_step)]
    return found


def pools(stack: Stack, wanted: set[str]) -> list[Finding]:
    """The pools that hints name: without its pool a task waits for ever, and Airflow calls that scheduled."""
    if not wanted or not stack.processes.running(airflow.API):
        return []
    try:
        there = Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password).pools()
    except NightshiftError:
        return []  # said by `services`
    step = f"make it at {stack.airflow_url}/pools, or name another in dvc.yaml: {', '.join(sorted(there))}"
    return [
        Finding("airflow", False, f"there is no pool {name!r}: its tasks would wait for ever", step)
        for name in sorted(wanted - set(there))
    ]


def endpoint(urls: str) -> list[Finding]:
    """Every replica of a list of URLs must answer: a deployment waits for all of them."""
    wanted = [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]
    if not wanted:
        return [Finding("endpoint", False, "no replica is set", "set NIGHTSHIFT_ENDPOINTS, or `nightshift up`")]
    with proof.http_client(timeout_s=5) as client:
        silent = [url for url in wanted if not proof.reachable(client, url)]
    return [Finding("endpoint", False, f"{url} does not answer", "start it: nightshift up") for url in silent]


def disk(home: Path, base: Mapping[str, Any], stages: list[dict[str, Any]], landed: int) -> Finding:
    """Whether what is going to be written fits, by the sizes of what these stages read and made last."""
    needed, known = 4.0 * landed, True
    for one in stages:
        if one["outcome"] not in (WILL, MAY):
            continue
        entry = base["stages"][one["stage"]]["entry"]
        known = known and entry is not None
        needed += sum(dep.get("size", 0) for dep in (entry or {}).get("deps", []))
        needed += COPIES * sum(out.get("size", 0) for out in (entry or {}).get("outs", []))
    needed = max(needed, 0 if known else preflight.NIGHT_GB * 1e9)
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    words = f"{free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB needed"
    return Finding("disk", free >= needed, words if free >= needed else f"{words} in {there}", "make room there")


def tools(graph: Mapping[str, Any], stages: list[dict[str, Any]], elsewhere: Mapping[str, str]) -> list[Finding]:
    """The versions and the accelerator that params.yaml names, where a stage must compute.

    ``graph``: each stage as DVC reads it (``dvc_index.read``).
    ``elsewhere``: the queue of each stage that workers of their own compute; what they have is not known here.
    """
    wrong: dict[str, list[str]] = {}
    found = []
    for one in stages:
        wanted = (graph[one["stage"]]["values"] or {}).get("params.yaml", {})
        names = {key.removeprefix("toolchain."): value for key, value in wanted.items() if key.startswith("toolchain.")}
        if one["outcome"] not in (WILL, MAY) or not names:
            continue
        if queue := elsewhere.get(one["stage"]):
            found.append(Finding("toolchain", None, f"{one['stage']} computes on queue {queue}, which was not asked"))
            continue
        for name, value in names.items():
            if name not in toolchain.OURS and (here := toolchain.installed(name)) != str(value):
                wrong.setdefault(f"{name} {here or 'missing'} (params.yaml: {value})", []).append(one["stage"])
        if names.get("accelerator") == "gpu" and toolchain.accelerator() != "gpu":
            wrong.setdefault(NO_GPU, []).append(one["stage"])
    for what, who in wrong.items():
        step = "train where there is one (docs/gpu.md)" if what == NO_GPU else "make install"
        step += ", or take over this machine's: nightshift doctor --toolchain"
        found.append(Finding("toolchain", False, f"{what}: {', '.join(who)}", step))
    return found
