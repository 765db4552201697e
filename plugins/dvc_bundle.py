"""The folder of DAG files with a version, so that a run keeps the tasks that it began with.

Without one, Airflow lays every new structure over the runs that are on: a stage that leaves ``dvc.yaml`` during a night
is killed in it, and one that enters is looked for in a run whose base does not have it.
"""

import contextlib
import os
from pathlib import Path

from airflow.configuration import conf
from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion
from dvc_tip import of_tip, version


class TipBundle(BaseDagBundle):
    """Airflow's DAG folder; its version is that of the graph of the branch's tip."""

    supports_versioning = True

    @property
    def path(self) -> Path:
        """The DAG folder itself: all versions share its files, which only wire."""
        return Path(conf.get("core", "dags_folder"))

    def initialize(self) -> None:
        """Make what Airflow removes when a version is not used any more: its folder, which holds nothing here."""
        if self.version:
            (self.versions_dir / self.version).mkdir(parents=True, exist_ok=True)
        super().initialize()

    def refresh(self) -> None:
        """Render the tip; only the dag-processor asks for it."""
        with contextlib.suppress(ValueError):  # the DAG file meets it too, and shows it as an import error
            of_tip(_home())

    def get_current_version(self) -> BundleVersion | None:
        """The version in use; None before anything was rendered."""
        found = version(_home())
        return BundleVersion(found) if found else None


def _home() -> Path:
    return Path(os.environ["NIGHTSHIFT_HOME"])
