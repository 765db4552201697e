"""The pages for people: files of our own, with headers under which nothing else can run in them or frame them."""

from importlib.resources import files

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = {file.name: file.read_bytes() for file in (files("nightshift.serving") / "pages").iterdir()}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)

PAGE = "index.html"  # the one document of all pages; its script draws the one that the path names


def file(name: str) -> tuple[bytes, list[tuple[str, str]]] | None:
    """A file of the pages and its headers, None when there is none of this name."""
    if name not in _FILES:
        return None
    headers = [
        ("content-type", f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8"),
        ("content-security-policy", _POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-cache"),
    ]
    return _FILES[name], headers
