"""`nightshift doctor`: what is here, what is missing, what would stop a night."""

import json as json_module
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nightshift import preflight
from nightshift.errors import NightshiftError
from nightshift.preflight import Finding
from nightshift.stack import repository, toolchain
from nightshift.stack.settings import S3, Stack, find_root

STYLES = {True: ("ok", "green"), None: ("note", "yellow"), False: ("STOP", "bold red")}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    write_toolchain: Annotated[
        bool,
        typer.Option("--toolchain", help="Write this machine's versions and accelerator into params.yaml."),
    ] = False,
) -> None:
    """Look around: tools, ports, disk, versions, parameters, repository, S3. Exit 1 when something stops a night."""
    root = find_root()
    changed = toolchain.write(root) if write_toolchain else None
    found = preflight.look(root, dict(os.environ)) + installed_side(root)
    stops = [finding for finding in found if finding.ok is False]
    if json:
        shown = [{"name": f.name, "ok": f.ok, "words": f.words, "next_step": f.next_step} for f in found]
        typer.echo(json_module.dumps({"ok": not stops, "findings": shown, "toolchain_changed": changed}, indent=2))
    else:
        show(found, changed, Console(soft_wrap=True, highlight=False))
    raise typer.Exit(1 if stops else 0)


def show(found: list[Finding], changed: list[str] | None, console: Console) -> None:
    for finding in found:
        word, style = STYLES[finding.ok]
        console.print(f"[{style}]{word:<4}[/]", f"{finding.name:<10}", finding.words, markup=True)
        if finding.next_step:
            console.print(f"{'':16}{'do' if finding.ok is False else 'or'}: {finding.next_step}", markup=False)
    if changed is not None:
        said = ", ".join(changed) or "this machine's already"
        console.print(f"params.yaml, toolchain: {said}", markup=False)
        if changed:
            console.print("Commit it: from now on this branch computes releases of its own with these versions.")


def installed_side(root: Path) -> list[Finding]:
    """What can only be known once everything is installed."""
    return [check_toolchain(root), check_params(root), check_repository(root), check_s3(root)]


def check_toolchain(root: Path) -> Finding:
    try:
        different = toolchain.differences(root)
    except NightshiftError as error:
        return Finding("toolchain", False, error.message, error.next_step)
    if not different and toolchain.lacks_gpu(root):
        step = "train where there is one (docs/gpu.md), or take over this machine's: nightshift doctor --toolchain"
        return Finding("toolchain", None, "params.yaml: accelerator: gpu, and torch finds no GPU here", step)
    if not different:
        return Finding("toolchain", True, "the versions of params.yaml are installed")
    words = ", ".join(f"{name} {here or 'missing'} (params.yaml: {there})" for name, (there, here) in different.items())
    return Finding(
        "toolchain", False, words, "make install, or take over this machine's: nightshift doctor --toolchain"
    )


def check_params(root: Path) -> Finding:
    """In a process of its own: the typed sections are the team's code."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.params"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        return Finding("params", False, said, "edit params.yaml and commit it")
    return Finding("params", True, "params.yaml is understood")


def check_repository(root: Path) -> Finding:
    try:
        name = repository.branch(root)
        edits = repository.edited(root)
    except NightshiftError as error:
        return Finding("branch", False, error.message, error.next_step)
    if edits:
        return Finding("branch", None, f"{name}; not committed, so no night sees it: {', '.join(edits)}")
    return Finding("branch", True, f"{name}, everything committed")


def check_s3(root: Path) -> Finding:
    if not Stack.exists(root) or not (stack := Stack.load(root)).processes.running(S3):
        return Finding("s3", None, "does not run here, so it was not checked", "nightshift up")
    try:
        stack.s3.self_check()
    except NightshiftError as error:
        return Finding("s3", False, error.message, error.next_step)
    except Exception as error:  # whatever a client can say of a server that is not well
        return Finding("s3", False, f"{stack.s3_url}: {error}", "nightshift up")
    return Finding("s3", True, f"{stack.s3_url}: conditional writes and wrong keys are refused")
