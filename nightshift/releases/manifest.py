"""``manifest.json``: the one file that says what a release is.

A release's **digest** is the sha256 of the manifest's bytes, and the manifest holds the sha256 of every other file, so
the digest names all of it. The **model digest** covers only what decides the answers (program, input, signature): two
releases of one model that differ in their decision or card share it.

    folder/manifest.json + files  --verify-->  Manifest          load(dump(m)) == m, unknown fields included
"""

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nightshift.releases.errors import FormatTooNew, ReleaseCorrupt
from nightshift.releases.store import whole_file

FORMAT = 1
NAME = "manifest.json"
PROGRAM = "model.onnx"  # the exported program; what is served, and the only thing that is executed
GOLDEN = "golden.json"
_SIGNATURE = re.compile(r"manifest\.([0-9a-f]{16})\.sig")
SHORT = 12  # characters of a digest that people type and URLs show

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "BF16", "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")  # a later minor format's fields are kept, not dropped


class File(_Part):
    """One file of the release: relative POSIX path, bytes, sha256 in hex."""

    path: str
    size: int = Field(ge=0)
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or "\\" in path or ".." in parts or str(PurePosixPath(path)) != path:
            raise ValueError(f"{path!r} is not a plain relative path")
        if path == NAME or signed_by(path):
            raise ValueError(f"{NAME} can list neither itself nor its signatures")
        return path


class Tensor(_Part):
    """A tensor in the Open Inference Protocol's words; -1 in the shape is a free dimension."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


class Signature(_Part):
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)


class Column(_Part):
    """One column of a row: a number, with the range that training saw, or one of a closed list of categories."""

    name: str = Field(min_length=1)
    kind: Literal["number", "category"]
    categories: tuple[str, ...] = ()
    minimum: float | None = Field(default=None, allow_inf_nan=False)
    maximum: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_whole(self) -> "Column":
        if (self.kind == "category") != bool(self.categories) or len(set(self.categories)) != len(self.categories):
            raise ValueError(f"column {self.name!r}: a category, and nothing else, has categories, each once")
        return self


class Input(_Part):
    """How a person's input becomes the tensor: one kind of a closed list, with its data.

    An image is UINT8 ``[-1, *shape]`` (height, width, channels); a text is BYTES ``[-1]`` or ``[-1, 1]``, and the
    program cuts it into words itself; a row's ``columns`` are a tensor each, of the column's name, or in their order
    one tensor of numbers ``[-1, columns]``, in which a category is its place in the list.
    """

    kind: Literal["image", "tensor", "text", "row"]
    labels: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    # Left out when empty: manifests of before it, and the model digests in them, stay as they are.
    columns: tuple[Column, ...] = Field(default=(), exclude_if=lambda columns: not columns)

    @field_validator("columns")
    @classmethod
    def _names_differ(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        if len({column.name for column in columns}) != len(columns):
            raise ValueError("two columns of a row have one name")
        return columns


class Manifest(_Part):
    """All of a release but the bytes. ``lineage`` holds hashes that are functions of the stages' inputs only."""

    format: int = FORMAT
    model: Name
    task: str
    files: tuple[File, ...]
    signature: Signature
    input: Input
    model_digest: Sha256
    lineage: dict[str, Any] = Field(default_factory=dict)
    verdict: str

    def file(self, path: str) -> File | None:
        return next((file for file in self.files if file.path == path), None)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def build(
    folder: Path,
    *,
    model: str,
    task: str,
    signature: Signature | dict[str, Any],
    input: Input | dict[str, Any],
    lineage: dict[str, Any],
    verdict: str,
) -> Manifest:
    """The manifest of a folder's files as they are now; nothing is written (``write`` does).

    Raises ReleaseCorrupt when the folder lacks the program, or a part is not of the format.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).as_posix() != NAME)
    files = [
        {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in paths
    ]
    program = next((file for file in files if file["path"] == PROGRAM), None)
    if program is None:
        raise ReleaseCorrupt(f"{folder} has no {PROGRAM}", "export the model first")
    try:
        signature_, input_ = Signature.model_validate(signature), Input.model_validate(input)
        return Manifest.model_validate(
            {
                "model": model,
                "task": task,
                "files": files,
                "signature": signature_,
                "input": input_,
                "model_digest": model_digest(str(program["sha256"]), input_, signature_),
                "lineage": lineage,
                "verdict": verdict,
            }
        )
    except ValidationError as error:
        raise ReleaseCorrupt(
            f"the manifest of {folder} would be wrong: {_first(error)}", "correct that part"
        ) from error


def model_digest(program: str, input: Input, signature: Signature) -> str:
    """sha256 (hex) of what decides the answers: the program file's sha256, the input and the signature."""
    parts = {"program": program, "input": input.model_dump(mode="json"), "signature": signature.model_dump(mode="json")}
    return digest(_canonical(parts))


def dump(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, two spaces, a newline at the end; the same manifest gives the same bytes."""
    return _canonical(manifest.model_dump(mode="json"))


def write(folder: Path, manifest: Manifest) -> str:
    """Put ``manifest.json`` into the folder, whole or not at all; returns the release's digest."""
    data = dump(manifest)
    with whole_file(folder / NAME) as temporary:
        temporary.write_bytes(data)
        temporary.chmod(0o644)  # mkstemp's 0600 would travel with the release
    return digest(data)


def load(data: bytes, what: str = NAME) -> Manifest:
    """``what`` is where the bytes are from, for whoever reads that they are wrong.

    Raises ReleaseCorrupt when they are no manifest, FormatTooNew when a newer Nightshift wrote them.
    """
    try:
        parsed = json.loads(data)
    except ValueError as error:
        raise ReleaseCorrupt(f"{what} is not JSON: {error}", "package the release again") from error
    if not isinstance(parsed, dict):
        raise ReleaseCorrupt(f"{what} is not an object", "package the release again")
    refuse_newer(parsed, what, FORMAT)
    try:
        manifest = Manifest.model_validate(parsed)
    except ValidationError as error:
        raise ReleaseCorrupt(f"{what} is wrong: {_first(error)}", "package the release again") from error
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        raise ReleaseCorrupt(f"{what} names a file twice", "package the release again")
    return manifest


def refuse_newer(parsed: dict[str, Any], what: str, known: int) -> None:
    """Raise FormatTooNew, by name, when this document was written by a newer Nightshift."""
    found = parsed.get("format")
    if isinstance(found, int) and found > known:
        raise FormatTooNew(
            f"{what} has format {found}; this Nightshift reads up to {known}",
            "upgrade it: git pull in its clone, then `make install` (or pip install '.[serve]')",
        )


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def short(full: str) -> str:
    """The form of a digest that people type and the protocol's version shows."""
    return full[:SHORT]


def signature_name(key_id: str) -> str:
    """The name of a key's signature, which lies beside the manifest."""
    return f"manifest.{key_id}.sig"


def signed_by(name: str) -> str | None:
    """The id of the key whose signature has this name; None when it is no signature's."""
    found = _SIGNATURE.fullmatch(name)
    return found[1] if found else None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path) -> Manifest:
    """The manifest of a folder whose every file has the size and sha256 that it says.

    Raises ReleaseCorrupt naming the first file that has not, or that is missing.
    """
    try:
        manifest = load((folder / NAME).read_bytes(), str(folder / NAME))
    except FileNotFoundError:
        raise ReleaseCorrupt(f"{folder} has no {NAME}: it is no release", "package or fetch it again") from None
    for file in manifest.files:
        path = folder / file.path
        if path.is_symlink() or not path.is_file():
            raise ReleaseCorrupt(f"{path} is missing", "package or fetch the release again")
        if path.stat().st_size != file.size:
            raise ReleaseCorrupt(
                f"{path} has {path.stat().st_size} bytes, its manifest says {file.size}", "fetch the release again"
            )
        if sha256_of(path) != file.sha256:
            raise ReleaseCorrupt(f"{path} has another sha256 than its manifest says", "fetch the release again")
    program = manifest.file(PROGRAM)
    if program is None:
        raise ReleaseCorrupt(f"{folder}/{NAME} lists no {PROGRAM}", "package the release again")
    if model_digest(program.sha256, manifest.input, manifest.signature) != manifest.model_digest:
        raise ReleaseCorrupt(f"{folder}/{NAME}: model_digest is not that of its program", "package the release again")
    return manifest


def _canonical(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
