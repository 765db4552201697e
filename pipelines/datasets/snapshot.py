"""The snapshot of one data set in a checkout: partitions, their profiles, and the index that says what they hold."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

FORMAT = 1


class SnapshotError(Exception):
    """The snapshot cannot be read or written; the message names the file and the next step."""


class Snapshot:
    """``data/<dataset>`` and ``data/profiles/<dataset>`` below ``root``.

    As a context it collects new files under temporary names; ``commit`` gives all of them their names, the index last.
    Without it, or when anything failed, nothing has changed.
    """

    def __init__(self, root: Path, dataset: str):
        self._root, self._dataset = root, dataset
        self._partitions = root / "data" / dataset
        self._profiles = root / "data" / "profiles" / dataset
        self._staged: dict[Path, Path] = {}
        self._removed: list[Path] = []
        self.days: dict[str, Any] = self._read_index()
        """What the index says of each partition: rows, sha256, checksum, duplicates, files."""

    def __enter__(self) -> Self:
        for folder in (self._partitions, self._profiles):
            folder.mkdir(parents=True, exist_ok=True)
            # What an interrupted ingest left: nothing that the index does not name is part of the snapshot.
            for path in [*folder.glob("date=*.parquet"), *folder.glob(".part-*")]:
                if path.name.removeprefix("date=").removesuffix(".parquet") not in self.days:
                    path.unlink()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for part in self._staged.values():
            part.unlink(missing_ok=True)

    def stage(self, day: str, *, partition: Callable[[Any], None], profile: Callable[[Any], None]) -> str:
        """Writes one day's two files, not yet under their names; returns the partition's sha256."""
        part = self._write(self._partitions / f"date={day}.parquet", partition)
        self._write(self._profiles / f"date={day}.parquet", profile)
        with part.open("rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()

    def remove(self, day: str) -> list[str]:
        """Takes a day out; returns its paths, relative to the root, which need not be here."""
        del self.days[day]
        paths = [folder / f"date={day}.parquet" for folder in (self._partitions, self._profiles)]
        self._removed += paths
        return [path.relative_to(self._root).as_posix() for path in paths]

    def commit(self) -> list[str]:
        """Puts what was staged in place; returns the changed paths, relative to the root."""
        if not self._staged and not self._removed:
            return []
        index = {"format": FORMAT, "dataset": self._dataset, "partitions": dict(sorted(self.days.items()))}
        text = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
        self._write(self._profiles / "index.json", lambda sink: sink.write(text.encode()))
        for path, part in self._staged.items():
            part.replace(path)
        for path in self._removed:
            if path not in self._staged:
                path.unlink(missing_ok=True)
        return [path.relative_to(self._root).as_posix() for path in self._staged]

    def _read_index(self) -> dict[str, Any]:
        path = self._profiles / "index.json"
        if path.is_file():
            index = json.loads(path.read_text())
            if index["format"] != FORMAT:
                raise SnapshotError(f"{path} has format {index['format']}, known is {FORMAT}: update this checkout")
            return dict(index["partitions"])
        tracked = self._root / "data.dvc"
        outs = yaml.safe_load(tracked.read_text())["outs"] if tracked.is_file() else []
        if any(out["path"] == f"data/profiles/{self._dataset}" and out.get("nfiles") for out in outs):
            raise SnapshotError(f"{path} is not here, and data.dvc names a snapshot: type `dvc pull data.dvc` first")
        return {}

    def _write(self, path: Path, fill: Callable[[Any], None]) -> Path:
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as sink:
                part = self._staged[path] = Path(sink.name)
                fill(sink)
                sink.flush()
                os.fsync(sink.fileno())
            part.chmod(0o644)
        except OSError as error:
            raise SnapshotError(
                f"{path} cannot be written ({error.strerror or error}); nothing was changed: "
                "free some space on that disk and run this again"
            ) from None
        return part
