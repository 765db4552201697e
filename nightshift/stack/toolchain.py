"""The toolchain section of params.yaml against what is installed here: its keys are distributions, but for three."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from nightshift.errors import NightshiftError

OURS = ("release_format", "accelerator", "threads")  # a format, a device and a number, not distributions


def wanted(root: Path) -> dict[str, Any]:
    """The section as written.

    Raises:
        NightshiftError: params.yaml cannot be read, or has no such section.
    """
    path = root / "params.yaml"
    try:
        section: dict[str, Any] = yaml.safe_load(path.read_text())["toolchain"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise NightshiftError(
            f"{path}: toolchain cannot be read: {error}", "correct the file, or `git checkout` it"
        ) from None
    return section


def installed(name: str) -> str | None:
    """The installed version of a distribution without its local part (``+cpu``); None when it is not installed."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def differences(root: Path) -> dict[str, tuple[str, str | None]]:
    """Each distribution whose installed version is another than params.yaml's: (wanted, installed)."""
    names = {name: str(value) for name, value in wanted(root).items() if name not in OURS}
    return {name: (value, installed(name)) for name, value in names.items() if value != installed(name)}


def write(root: Path) -> list[str]:
    """Writes this machine's versions and accelerator into params.yaml, line by line; returns what changed, in words.

    Comments and everything else stay as they are. ``threads`` is a choice, not a finding: it stays too.
    """
    new = {name: here for name, (_, here) in differences(root).items() if here}
    if wanted(root).get("accelerator") != (here := accelerator()):
        new["accelerator"] = here
    path, changed = root / "params.yaml", []
    head, found, rest = re.split(r"^(toolchain:.*\n)", path.read_text(), maxsplit=1, flags=re.MULTILINE)
    section = re.match(r"(?:[ \t#].*\n|\n)*", rest)
    end = section.end() if section else 0
    lines = rest[:end].splitlines(keepends=True)
    for number, line in enumerate(lines):
        match = re.match(r"(\s+)([\w.-]+)(:\s*)([^\s#]+)(.*)", line, flags=re.DOTALL)
        if match and match[2] in new:
            value = new[match[2]] if isinstance(yaml.safe_load(new[match[2]]), str) else f'"{new[match[2]]}"'
            lines[number] = f"{match[1]}{match[2]}{match[3]}{value}{match[5]}"
            changed.append(f"{match[2]}: {match[4]} → {new[match[2]]}")
    temporary = path.with_suffix(".yaml.tmp")
    temporary.write_text(head + found + "".join(lines) + rest[end:])
    temporary.replace(path)
    return changed


def lacks_gpu(root: Path) -> bool:
    """Whether params.yaml asks for a GPU and torch finds none."""
    return wanted(root).get("accelerator") == "gpu" and accelerator() != "gpu"


def accelerator() -> str:
    """``gpu`` where torch finds one (Lightning's word), else ``cpu``."""
    import torch  # takes seconds

    return "gpu" if torch.cuda.is_available() else "cpu"
