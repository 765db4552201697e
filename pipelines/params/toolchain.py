"""What decides bytes beside code and data, and the refusal to compute under something else."""

from importlib.metadata import version

from pipelines.params.section import ParamsError, at, read


def demand(*names: str) -> None:
    """Refuses unless the installed versions of ``names`` are those of params.yaml's ``toolchain``.

    Versions compare without their local part (``2.13.0+cpu`` is ``2.13.0``).

    Raises:
        ParamsError: names what is installed, what is asked for, and the way out.
    """
    wanted = at(read(), "toolchain")
    for name in names:
        installed = version(name).partition("+")[0]
        if installed != str(wanted.get(name)):
            raise ParamsError(
                f"{name} {installed} is installed and params.yaml's toolchain.{name} is {wanted.get(name)}: "
                "other versions give other bytes. Install the locked one (`make install`), or write this machine's "
                "(`nightshift doctor --toolchain`) and compute releases of its own."
            )
