"""What decides bytes beside code and data, and the refusal to compute under something else."""

from importlib.metadata import version

from pipelines.params.section import ParamsError, at, nearest, read


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


def threads() -> int:
    """The thread count that computes: another one sums in another order and gives other bytes."""
    found = at(read(), "toolchain", "threads")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ParamsError(f"params.yaml: toolchain.threads is {found!r}; write a whole number from 1")
    return found


def accelerator(present: dict[str, bool]) -> str:
    """The accelerator that computes, one of those in ``present`` (name: is it in this machine?).

    Raises:
        ParamsError: it is unknown, or this machine has none.
    """
    found = at(read(), "toolchain", "accelerator")
    if found not in present:
        raise ParamsError(f"params.yaml: toolchain.accelerator is {found!r}{nearest(str(found), list(present))}")
    if not present[found]:
        raise ParamsError(
            f"params.yaml's toolchain.accelerator is {found} and this machine has none that torch can use: run "
            "the stage where there is one, or write this machine's (`nightshift doctor --toolchain`)."
        )
    return str(found)
