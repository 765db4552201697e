"""`nightshift status`: what runs, where, and what serves."""

import json as json_module
import shlex
from typing import Annotated, Any

import typer
from rich.console import Console

from nightshift.stack import lifecycle
from nightshift.stack.schedule import schedule_of
from nightshift.stack.settings import Stack, find_root


def status(
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    shell: Annotated[bool, typer.Option(help="Addresses and keys as shell variables, for `eval`.")] = False,
) -> None:
    """Show what of this checkout's stack runs, at which ports, and which release of each model answers."""
    root = find_root()
    if shell:
        typer.echo("\n".join(f"{name}={shlex.quote(value)}" for name, value in _variables(Stack.load(root)).items()))
        return
    found = lifecycle.status(root) | {"schedule": schedule_of(root)}
    if json:
        typer.echo(json_module.dumps(found, indent=2))
    else:
        _show(found, Console(soft_wrap=True, highlight=False))
        if found["services"].get("airflow", {}).get("healthy"):
            stack = Stack.load(root)
            typer.echo(f"airflow user {stack.airflow_user}, password {stack.airflow_password}")


def _variables(stack: Stack) -> dict[str, str]:
    """What a script on this machine needs to speak to the stack; the S3 keys may read releases, not write them,
    and the endpoint's opens its administration."""
    keys = stack.environment("worker")
    return {
        "AIRFLOW": stack.airflow_url,
        "AIRFLOW_USER": stack.airflow_user,
        "AIRFLOW_PASSWORD": stack.airflow_password,
        "S3": stack.s3_url,
        "S3_KEY": keys["AWS_ACCESS_KEY_ID"],
        "S3_SECRET": keys["AWS_SECRET_ACCESS_KEY"],
        "ENDPOINT": stack.endpoint_url,
        "ENDPOINT_KEY": stack.endpoint_key,
        "GRPC": stack.grpc_address,
    }


def _show(found: dict[str, Any], console: Console) -> None:
    if not found["services"]:
        console.print(f"{found['checkout']}: no stack yet (nightshift up)")
    for name, service in found["services"].items():
        running = [f"{part} {pid}" for part, pid in service["pids"].items() if pid]
        missing = [part for part, pid in service["pids"].items() if not pid]
        if service["healthy"]:
            state = "[green]runs[/]"
        elif running:
            state = f"[red]not well[/] ({'missing: ' + ', '.join(missing) if missing else 'does not answer'})"
        else:
            state = "stopped"
        console.print(f"{name:<9} {state}  {service['url']}  {', '.join(running)}")
    for model, serving in sorted(found["serving"].items()):
        digest = serving.get("serving")
        console.print(f"serves    {model}: {digest[:12] if digest else 'nothing yet'}")
        if refused := serving.get("refused"):
            console.print(
                f"          refused {str(refused.get('digest'))[:12]}: {refused.get('reason')}", style="yellow"
            )
    console.print(f"schedule  {found['schedule']['words']}")
