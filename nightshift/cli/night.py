"""``nightshift night``: land, trigger, follow, tell."""

import fcntl
import os
import secrets
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nightshift.cli import summary as summaries
from nightshift.cli.follow import Followed, follow
from nightshift.cli.land import landing_zones
from nightshift.cli.summary import Summary, Told
from nightshift.engine import held, lock
from nightshift.engine.journal import Journal
from nightshift.engine.night import claim, drop
from nightshift.engine.objects import Objects, remote_url
from nightshift.errors import NightshiftError
from nightshift.releases.ledger import Ledger
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
from nightshift.stack import demo, lifecycle, repository
from nightshift.stack.runs import Airflow, Run
from nightshift.stack.schedule import schedule_of
from nightshift.stack.settings import Stack, find_root


def night(
    until: Annotated[
        str | None, typer.Option(help="The last day whose data counts (YYYY-MM-DD); else yesterday.")
    ] = None,
    rerun: Annotated[
        bool, typer.Option(help="Compute every stage again; other bytes than before fail the run.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    land: Annotated[bool, typer.Option(help="Drop the next demo day into the landing zone first.")] = True,
    json: Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output.")] = False,
) -> None:
    """Run one night: new data in, models trained, judged, published and, if better, serving."""
    console = Console(stderr=json)
    root = find_root()
    check_params(root)
    stack = start(root, console)
    for file in repository.edited(stack.root):
        console.print(
            f"[yellow]note:[/] {file} has edits that are not committed; a night runs what is committed", highlight=False
        )
    tip = repository.push(stack.root)
    os.environ.update(stack.environment("admin"))  # a person's hands: only they may drop files into the landing zone
    objects = Objects(remote_url(root / ".dvc/config"), stack.home / "cache")
    waiting = land_next_days(stack, objects, console) if land else []

    airflow = Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)
    wait_for_dags(airflow, tip, stack)
    paused = {name for name, dag in airflow.dags().items() if dag["is_paused"]}
    waiting += [f"{name} is paused: unpause it at {stack.airflow_url}/dags/{name}" for name in sorted(paused)]
    starts = [name for name in sorted(set(airflow.dags()) - paused) if name.startswith("ingest_")]
    runs = trigger(airflow, starts, {"until": until, "rerun": rerun, "reason": reason}, console)
    try:
        followed = follow(airflow, runs, console)
    except KeyboardInterrupt:
        console.print(f"No longer followed; the night goes on in Airflow: {stack.airflow_url}")
        raise typer.Exit(130) from None
    told = tell(stack, followed, objects, waiting)
    if json:
        sys.stdout.write(told.json() + "\n")
    else:
        summaries.show(console, told)
    raise typer.Exit(told.exit_code)


def trigger(airflow: Airflow, starts: list[str], conf: dict[str, Any], console: Console) -> list[Run]:
    """Starts these DAGs as one night, and says its name."""
    now = datetime.now(UTC)
    key = f"night__{now.isoformat()}_{secrets.token_hex(2)}"
    name = claim(open_store(os.environ["NIGHTSHIFT_WORK"]), key, now.date().isoformat(), starts).name
    console.print(f"night {name}", highlight=False)
    runs: list[Run] = []
    for dag in starts:  # a model's run is started by its data set's asset
        if airflow.active(dag):
            console.print(f"[yellow]note:[/] {dag} has a run that has not ended; this night's waits behind it")
        try:
            runs.append(airflow.trigger(dag, conf, key))
        except NightshiftError:
            if not runs:  # nothing has begun, so nobody is to be told that it is late
                drop(open_store(os.environ["NIGHTSHIFT_WORK"]), name)
            raise
    return runs


def check_params(root: Path) -> None:
    """params.yaml, before anything starts: its own child, because the typed sections are the team's code.

    Raises:
        NightshiftError: it names the key and, if one is near, what was meant.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.params"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NightshiftError(done.stderr.strip() or done.stdout.strip(), "edit params.yaml and commit it", exit_code=2)


def start(root: Path, console: Console) -> Stack:
    """The stack, if it is not up."""
    since = time.monotonic()
    return lifecycle.up(
        root, lambda line: console.print(f"[dim]{time.monotonic() - since:5.1f} s  {line}[/]", highlight=False)
    )


def land_next_days(stack: Stack, objects: Objects, console: Console) -> list[str]:
    """Drops each demo data set's next day, once the last one landed has been taken or held; what was left, in words."""
    left = []
    work = open_store(os.environ["NIGHTSHIFT_WORK"])
    for dataset, url in landing_zones(stack.root).items():
        seen = taken(stack, objects, dataset) | {day["date"] for day in held.days(work, dataset)}
        day = demo.land_next(dataset, open_store(url), seen, stack.root / demo.DOWNLOADS)
        if day:
            console.print(f"landed {dataset} {day}", highlight=False)
        elif len(seen) >= len(demo.DAYS):
            left.append(f"{dataset} has no new demo day left")
    return left


def taken(stack: Stack, objects: Objects, dataset: str) -> set[str]:
    """The days of the branch's snapshot."""
    text = repository.git(stack.root, "show", f"{repository.REMOTE}/{repository.branch(stack.root)}:data.dvc").stdout
    entries = {out["path"]: out["md5"] for out in lock.load(text)["outs"]}
    members = objects.members(entries[f"data/profiles/{dataset}"])
    if "index.json" not in members:
        return set()
    return set(objects.read_json(members["index.json"])["partitions"])


def wait_for_dags(airflow: Airflow, tip: str, stack: Stack, patience: timedelta = timedelta(seconds=90)) -> None:
    """Until Airflow has read the branch's tip.

    Raises:
        NightshiftError: the DAG file cannot be read; says Airflow's reason.
    """
    asked = datetime.now(UTC)
    known = airflow.dags()
    seen = stack.home / "graph" / "tip"
    if known and seen.exists() and seen.read_text() == tip:
        return
    if known:
        airflow.parse(next(iter(known.values()))["file_token"])
    before = {name: dag["last_parsed_time"] for name, dag in known.items()}
    while datetime.now(UTC) - asked < patience:
        if errors := airflow.import_errors(since=asked):
            raise NightshiftError(
                f"Airflow cannot read the DAGs: {errors[0]}", "correct it, commit, and run the night again"
            )
        now = airflow.dags()
        if now and any(before.get(name) != dag["last_parsed_time"] for name, dag in now.items()):
            seen.parent.mkdir(exist_ok=True)
            seen.write_text(tip)
            return
        time.sleep(1)
    raise NightshiftError("Airflow has not read the DAGs yet", f"see {stack.home}/logs, then run the night again")


def tell(stack: Stack, followed: list[Followed], objects: Objects, waiting: list[str]) -> Summary:
    """Brings the record into the checkout and collects what the night came to."""
    with (stack.home / "checkout.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)  # two nights that end together come one after the other
        merged = repository.merge(stack.root)
        left_alone = merged.left_alone or checkout_data(stack.root)
    registry_store = open_store(os.environ["NIGHTSHIFT_REGISTRY"])
    ledger, registry = Ledger(registry_store), Registry(registry_store)
    told = {one.run: Told(Journal.open(one.run.dag, one.run.id), objects) for one in followed}
    pages = stack.home / "reports"
    data_sets = [summaries.data_set(one, told[one.run], pages) for one in followed if one.run.dag.startswith("ingest_")]
    models = [
        summaries.model(one, told[one.run], ledger, pages) for one in followed if one.run.dag.startswith("train_")
    ]
    log = repository.git(stack.root, "log", "--format=%h %s", f"{merged.before}..{merged.after}").stdout.splitlines()
    serving = next((one for one in models if one.serving), None)
    return Summary(
        data_sets=data_sets,
        models=models,
        commits=log,
        left_alone=left_alone,
        undo=f"git revert --no-edit {merged.before[:9]}..{merged.after[:9]}   (what serves: nightshift rollback)"
        if log
        else "",
        waiting=waiting,
        next_night=schedule_of(stack.root)["words"],
        links={
            "endpoint": stack.endpoint_url,
            "playground": f"{stack.endpoint_url}/playground",
            "Airflow": stack.airflow_url,
            "user": stack.airflow_user,
            "password": stack.airflow_password,
        },
        curl=summaries.example(registry, stack.endpoint_url, serving, stack.home) if serving else "",
    )


def checkout_data(root: Path) -> str:
    """The data and results that the record names, out of the shared cache into the checkout; why not, if not.

    Asked for by name: `dvc pull` alone fails as long as one stage was never recorded.
    """
    recorded = lock.entries(root)
    said = ""
    for verb in ("checkout", "pull"):  # nearly always the cache has it all, and asking S3 costs seconds
        command = [sys.executable, "-m", "dvc", verb, "data.dvc", *recorded]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return ""
        said = f"dvc {verb}: {done.stderr.strip()}"
    return said
