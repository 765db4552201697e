"""Figures of this machine, as ratios of one run: ``python -m benchmarks.<name>``. See README.md."""

import nightshift  # noqa: F401 - before any library that would tell its maker who runs it
