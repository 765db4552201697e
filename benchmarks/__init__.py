"""Figures of this machine, as ratios of one run: ``python -m benchmarks.<name>``. See README.md."""
