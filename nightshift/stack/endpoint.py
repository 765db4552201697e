"""The endpoint's process on one machine: ``nightshift serve`` with the right to read the registry, and no other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import httpx

from nightshift.errors import NightshiftError
from nightshift.preflight import port_is_free
from nightshift.stack.airflow import wait
from nightshift.stack.processes import taken_port
from nightshift.stack.settings import ENDPOINT, GRPC, PORT_VARIABLES, Stack, inherited

NAME = "endpoint"


def command(stack: Stack) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "nightshift.cli.main", "serve"),
        *("--host", "127.0.0.1", "--port", str(stack.ports[ENDPOINT]), "--grpc-port", str(stack.ports[GRPC])),
    ]


def environment(stack: Stack) -> dict[str, str]:
    ours = stack.environment("endpoint")
    del (
        ours["NIGHTSHIFT_WORK"],
        ours["NIGHTSHIFT_REPO"],
        ours["NIGHTSHIFT_ENDPOINTS"],
    )  # nothing of these is its business
    return inherited() | ours


def launch(stack: Stack, say: Callable[[str], None]) -> bool:
    """Starts the endpoint unless it is well; does not wait for it. True when it was started.

    Raises:
        NightshiftError: its port is taken.
    """
    processes = stack.processes
    if processes.is_current(NAME, command(stack), environment(stack)) and wait(lambda: is_ours(stack), 15):
        return False
    processes.stop(NAME)
    for port, what in ((ENDPOINT, "the endpoint"), (GRPC, "the endpoint's gRPC")):
        if not port_is_free(stack.ports[port]):
            raise taken_port(stack.ports[port], what, PORT_VARIABLES[port][0])
    say(f"endpoint: starts at {stack.endpoint_url}")
    processes.start(NAME, command(stack), environment(stack), stack.root)
    return True


def wait_until_ours(stack: Stack, timeout_s: float = 120) -> None:
    """Waits until the endpoint answers.

    Raises:
        NightshiftError: it ended, or does not answer in time; names its log and shows its end.
    """
    processes = stack.processes
    wait(lambda: is_ours(stack) or processes.running(NAME) is None, timeout_s)
    if not is_ours(stack):
        what = "does not answer" if processes.running(NAME) else "ended at its start"
        raise NightshiftError(
            f"The endpoint {what}; the end of its log:\n{processes.tail(NAME)}", f"read {processes.log(NAME)}"
        )


def answer(stack: Stack) -> dict[str, Any]:
    """What the endpoint says of itself (``GET /status``); empty when nothing answers."""
    try:
        headers = {"Authorization": f"Bearer {stack.endpoint_key}"}
        asked = httpx.get(f"{stack.endpoint_url}/status", headers=headers, timeout=5, trust_env=False)
        found: dict[str, Any] = asked.json()
    except (httpx.HTTPError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_ours(stack: Stack) -> bool:
    """Whether what answers at the port is this checkout's endpoint."""
    return answer(stack).get("checkout") == str(stack.home)
