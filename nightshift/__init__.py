"""Nightshift: every night, new data into a better model that is proven, published and serving by morning."""

from importlib.metadata import version

__version__ = version("nightshift-ml")
