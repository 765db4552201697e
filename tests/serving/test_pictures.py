"""Image files of all sorts, whole and damaged, to the pixels that the model was trained on."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nightshift.serving import pictures
from nightshift.serving.pictures import Upload
from nightshift.serving.tensors import RequestError

SHAPE = (4, 6, 3)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, SHAPE, dtype=np.uint8)


def file(image: Image.Image | np.ndarray, format: str = "PNG", **settings: object) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, format, **settings)
    return out.getvalue()


def one(data: bytes, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, list[str]]:
    array, notes = pictures.pixels([Upload("", data)], shape)
    assert array.shape == (1, *shape)
    assert array.dtype == np.uint8
    return array[0], notes[0]


@pytest.mark.parametrize(("format", "settings"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_a_file_of_the_models_size_keeps_every_pixel(format: str, settings: dict) -> None:
    found, notes = one(file(PIXELS, format, **settings))
    np.testing.assert_array_equal(found, PIXELS)
    assert notes == []


def test_a_jpeg_is_what_training_would_have_read() -> None:
    data = file(PIXELS, "JPEG")
    np.testing.assert_array_equal(one(data)[0], np.asarray(Image.open(io.BytesIO(data))))


def test_gray_becomes_color_color_becomes_gray_and_is_said() -> None:
    gray = PIXELS[:, :, 0]
    found, notes = one(file(gray))
    np.testing.assert_array_equal(found, np.repeat(gray[:, :, None], 3, axis=2))
    assert notes == ["turned to color"]
    found, notes = one(file(PIXELS), (4, 6, 1))
    np.testing.assert_array_equal(found[:, :, 0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    assert notes == ["turned to gray"]


def test_another_size_is_resized_and_said() -> None:
    found, notes = one(file(Image.new("RGB", (640, 480), (9, 8, 7))))
    assert (found == (9, 8, 7)).all()
    assert notes == ["resized from 640 × 480 to 6 × 4"]


def test_a_photo_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    found, notes = one(file(PIXELS, "PNG", exif=exif))
    np.testing.assert_array_equal(found, PIXELS[::-1, ::-1])
    assert notes == ["turned upright, as its camera says"]


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_of_a_photo_that_is_not_turned_nothing_is_said(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found, notes = one(file(PIXELS, "PNG", exif=exif))
    np.testing.assert_array_equal(found, PIXELS)
    assert notes == []


def test_gray_of_16_bits_keeps_its_upper_8_and_is_said() -> None:
    gray = RNG.integers(0, 2**16, (4, 6), dtype=np.uint16)
    gray[0, 0] = 513
    found, notes = one(file(gray), (4, 6, 1))
    np.testing.assert_array_equal(found[:, :, 0], gray >> 8)
    assert notes == ["turned to 8 bits, from 16"]
    found, notes = one(file(gray, transparency=513))
    assert found[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(found[1:, :, 2], gray[1:] >> 8)
    assert notes == ["turned to 8 bits, from 16", "laid on white where it is transparent"]


def test_transparent_parts_are_white_and_an_opaque_alpha_changes_nothing() -> None:
    alpha = np.dstack([PIXELS, np.full((4, 6), 255, np.uint8)])
    np.testing.assert_array_equal(one(file(alpha))[0], PIXELS)
    alpha[0, 0, 3] = 0
    found, notes = one(file(alpha))
    assert found[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(found[1:], PIXELS[1:])
    assert notes == ["laid on white where it is transparent"]


def test_palettes_and_the_first_frame_of_an_animation_are_read() -> None:
    first, second = Image.new("P", (6, 4), 1), Image.new("P", (6, 4), 2)
    for frame in (first, second):
        frame.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    found, _ = one(file(first, "GIF", save_all=True, append_images=[second]))
    assert (found == (255, 0, 0)).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def promising(width: int, height: int) -> bytes:
    """A PNG whose header promises this many pixels and whose data hold none."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


WHOLE = file(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
BAD = {
    "empty": (b"", 400, "the body is empty"),
    "html": (
        b"<script>alert(1)</script>",
        400,
        r"cannot be read as an image: it is no whole PNG, .* \(UnidentifiedImageError\)",
    ),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hosts"/></svg>', 400, "cannot be read"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n", 400, "cannot be read"),
    "tiff": (file(PIXELS, "TIFF"), 400, "cannot be read"),
    "cut": (WHOLE[: len(WHOLE) // 2], 400, "cannot be read"),
    "damaged": (WHOLE[:60] + b"\0" * 200 + WHOLE[260:], 400, "cannot be read"),
    "no data": (promising(6, 4), 400, "cannot be read"),
    "a bomb": (promising(5001, 5000), 413, "the body comes to more than 25 megapixels"),
    "an absurd one": (promising(2**31 - 1, 2**31 - 1), 413, "the body comes to more than 25 megapixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_refused_before_it_costs_anything(case: str) -> None:
    data, status, words = BAD[case]
    with pytest.raises(RequestError) as refused:
        one(data)
    assert refused.value.status == status
    assert re.search(words, refused.value.message)


def test_the_pixels_of_all_files_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 50)
    files = [Upload("a.png", file(PIXELS)), Upload("b.png", file(PIXELS)), Upload("c.png", file(PIXELS))]
    assert len(pictures.pixels(files[:2], SHAPE)[0]) == 2
    with pytest.raises(RequestError, match=r"c\.png comes to more than"):
        pictures.pixels(files, SHAPE)


def form(*files: tuple[str, bytes], boundary: str = "xyz") -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: image/png\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def test_a_form_holds_several_files_with_their_names() -> None:
    tricky = b"\r\n--xy\r\n--\0\xff"
    found = pictures.uploads("multipart/form-data; boundary=xyz", form(("a.png", WHOLE), ("ü<b>.png", tricky)), 9)
    assert found == [Upload("a.png", WHOLE), Upload("ü<b>.png", tricky)]


def test_a_form_that_breaks_off_is_refused_wherever_it_does() -> None:
    two = form(("a.png", b"first"), ("b.png", b"second"))
    second = two.index(b"b.png")
    for end in range(len("--xyz\r\n"), len(two) - len("\r\n")):
        with pytest.raises(RequestError, match=r"^the form breaks off in file [12]$") as refused:
            pictures.uploads("multipart/form-data; boundary=xyz", two[:end], 9)
        assert refused.value.status == 400
        assert end < second or refused.value.message.endswith("2")
    assert len(pictures.uploads("multipart/form-data; boundary=xyz", two[:-2], 9)) == 2


def test_another_content_type_is_the_file_itself() -> None:
    assert pictures.uploads("application/x-www-form-urlencoded", WHOLE, 9) == [Upload("", WHOLE)]


@pytest.mark.parametrize(
    ("media", "body", "words"),
    [
        ("multipart/form-data", form(("a", b"x")), "multipart body"),
        ("multipart/form-data; boundary=other", form(("a", b"x")), "multipart body"),
        ("multipart/form-data; boundary=" + "x" * 500, b"", "multipart body"),
        ("multipart/form-data; boundary=ä", form(("a", b"x")), "multipart body"),
        ("multipart/form-data; boundary=☃", form(("a", b"x")), "multipart body"),
        ("multipart/form-data; boundary=xyz", b"", "no files"),
        ("multipart/form-data; boundary=xyz", b"--xyz\r\nno header\r\n\r\n\r\n--xyz--", "cannot be read"),
        ("multipart/form-data; boundary=xyz", form(*[("a", b"x")] * 4), "more than 3 files"),
    ],
)
def test_a_form_that_is_none_is_refused(media: str, body: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words) as refused:
        pictures.uploads(media, body, 3)
    assert refused.value.status == 400
