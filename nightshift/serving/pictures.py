"""Image files, as people have them, to the pixels that a model was trained on. The files are anybody's: Pillow reads
five formats from memory and nothing else, and no more pixels than fit."""

import io
from typing import NamedTuple

import numpy as np
import python_multipart
from PIL import Image, ImageOps
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from nightshift.serving.tensors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 25_000_000  # of all images of a request, as they were sent: 75 MB for the moment of decoding
MODES = {1: "L", 3: "RGB"}
_WORDS = {"L": "gray", "RGB": "color"}


class Upload(NamedTuple):
    """One file of a request: the name it was sent with, "" when it had none, and its bytes."""

    name: str
    data: bytes


def uploads(media: str, body: bytes, most: int) -> list[Upload]:
    """The files of a body: the body itself, or the parts of a multipart/form-data. Raises RequestError 400."""
    kind, options = parse_options_header(media.encode("latin-1", "replace"))
    if kind != b"multipart/form-data":
        return [Upload("", body)]
    found: list[Upload] = []
    names: dict[bytes, bytes] = {}
    part, header, value = bytearray(), bytearray(), bytearray()
    begun = 0

    def begin_part() -> None:
        nonlocal begun
        begun += 1

    def end_of_header() -> None:
        names[bytes(header).lower()] = bytes(value)
        header.clear()
        value.clear()

    def end_of_part() -> None:
        if len(found) == most:
            raise RequestError(400, f"more than {most} files in one request; send them in parts")
        _, said = parse_options_header(names.get(b"content-disposition", b""))
        found.append(Upload(said.get(b"filename", b"").decode("utf-8", "replace")[:200], bytes(part)))
        names.clear()
        part.clear()

    parser = None
    try:
        parser = python_multipart.MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": begin_part,
                "on_header_field": lambda data, start, end: header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: value.extend(data[start:end]),
                "on_header_end": end_of_header,
                "on_part_data": lambda data, start, end: part.extend(data[start:end]),
                "on_part_end": end_of_part,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise RequestError(400, f"the multipart body cannot be read: {error}") from None
    if begun > len(found):
        raise RequestError(400, f"the form breaks off in file {begun}")
    if not found:
        raise RequestError(400, "the multipart body has no files, or its boundary is not the one of the header")
    return found


def pixels(files: list[Upload], shape: tuple[int, ...]) -> tuple[np.ndarray, list[list[str]]]:
    """UINT8 ``[files, *shape]`` (height, width, channels), and for each file what was done to it, in words.

    A file of the model's size and channels comes out as training saw it. Raises RequestError 400 or 413.
    """
    height, width, channels = shape
    array = np.empty((len(files), *shape), np.uint8)
    notes: list[list[str]] = []
    left = MAX_PIXELS
    for index, file in enumerate(files):
        what = file.name or ("the body" if len(files) == 1 else f"file {index + 1}")
        if not file.data:
            raise RequestError(400, f"{what} is empty; send a {' or '.join(FORMATS[:2])} file")
        try:
            with Image.open(io.BytesIO(file.data), formats=FORMATS) as opened:
                left -= opened.width * opened.height  # asked of the header, before anything is decoded
                if left < 0:
                    raise Image.DecompressionBombError
                image, done = _upright(opened)
        except Image.DecompressionBombError:  # Pillow's own too, of what is far bigger
            raise RequestError(
                413, f"{what} comes to more than {MAX_PIXELS // 1_000_000} megapixels; send smaller or fewer"
            ) from None
        except Exception as error:  # Pillow raises a dozen kinds on damaged files
            kinds = ", ".join(FORMATS)
            raise RequestError(
                400, f"{what} cannot be read as an image: it is no whole {kinds} ({type(error).__name__})"
            ) from None
        if image.mode != MODES[channels]:
            done.append(f"turned to {_WORDS[MODES[channels]]}")
            image = image.convert(MODES[channels])
        if image.size != (width, height):
            done.append(f"resized from {image.width} × {image.height} to {width} × {height}")
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        array[index] = np.asarray(image, np.uint8).reshape(shape)
        notes.append(done)
    return array, notes


def _upright(opened: Image.Image) -> tuple[Image.Image, list[str]]:
    """The first frame as a viewer shows it: turned as the camera says, on white where it is transparent."""
    done = []
    opened.load()
    image: Image.Image = opened
    if opened.getexif().get(0x0112) in range(2, 9):
        image = ImageOps.exif_transpose(opened)
        done.append("turned upright, as its camera says")
    if image.mode.startswith("I"):
        image = _of_8_bits(image)
        done.append("turned to 8 bits, from 16")
    if image.mode in ("P", "1"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB" if image.mode == "P" else "L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            done.append("laid on white where it is transparent")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image, done


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Of 16 bits of gray the upper 8, as Pillow does it with color; gray of 16 bits it would clip to white."""
    values = np.asarray(image)
    gray = Image.fromarray((values >> 8).astype(np.uint8))
    if (clear := image.info.get("transparency")) is not None:
        gray.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return gray
