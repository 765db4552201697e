"""The stages, each a module that ``dvc.yaml`` runs."""

import nightshift  # noqa: F401 - before any library that would tell its maker who runs it
