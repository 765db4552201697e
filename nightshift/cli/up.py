"""`nightshift up`: the stack of this machine."""

import time

from rich.console import Console

from nightshift.stack.lifecycle import up as bring_up
from nightshift.stack.settings import find_root


def up() -> None:
    """Start the S3 server, Airflow and the endpoint of this checkout, on loopback.

    What is healthy is left alone, so this is also how to bring back what died. Ports: NIGHTSHIFT_AIRFLOW_PORT (8080),
    NIGHTSHIFT_S3_PORT (8333), NIGHTSHIFT_ENDPOINT_PORT (8000),
    NIGHTSHIFT_GRPC_PORT (8001); once given they are kept.
    """
    console, since, lines = Console(soft_wrap=True, highlight=False), time.monotonic(), []

    def say(line: str) -> None:
        lines.append(line)
        console.print(f"{time.monotonic() - since:5.1f} s  {line}", style="dim")

    stack = bring_up(find_root(), say)
    console.print(f"The stack is up ({time.monotonic() - since:.0f} s)." if lines else "The stack is up already.")
    console.print(f"  Airflow   {stack.airflow_url}  user {stack.airflow_user}, password {stack.airflow_password}")
    console.print(f"  endpoint  {stack.endpoint_url}  gRPC {stack.grpc_address}")
    console.print(f"  S3        {stack.s3_url}")
