"""The one process that runs a stage: commands and DVC's command line, one after the other, in one process group.

Started by path (``python -P child.py``), so that neither the workspace nor this folder is on its module path. It
dies with the engine, and takes its whole group along: it holds the reading end of a pipe that only the engine can
write to, and when that ends while it works, the engine is gone, even by kill -9.

Arguments: the number of that pipe, and a file of the steps as JSON: ``[["dvc", "pull", …], ["run", "python", …], …]``.
It stops at the first step that fails, says on a last line which one and with what status (``process.ENDED``), and
then kills its group: what a command left behind must neither live on nor hold the pipe of the output open.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


def _die_with(pipe: int) -> None:
    os.set_inheritable(pipe, False)
    os.read(pipe, 1)
    os.killpg(0, signal.SIGKILL)


def main(pipe: int, steps: list[list[str]]) -> None:
    """Run the steps."""
    threading.Thread(target=_die_with, args=(pipe,), daemon=True).start()
    number, status = 0, 0
    for number, (kind, *arguments) in enumerate(steps):  # noqa: B007 - said below
        if kind == "dvc":
            from dvc.cli import main as dvc

            status = dvc(arguments)
        else:
            status = subprocess.run(arguments, check=False).returncode
        if status:
            break
    sys.stdout.write(f"\x1eended at step {number} with status {status}\n")
    sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
