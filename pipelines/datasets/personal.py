"""Personal data: what ingest does to columns that hold it, and what looks like it where nobody said so.

Columns are named in ``records.personal``. What is dropped, hashed or masked here is in no snapshot, and so in nothing
that is made of one.
"""

import hmac
import ipaddress
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.params.records import LIKELY, Records

SECRET = "NIGHTSHIFT_PERSONAL_SECRET"  # noqa: S105 - the name of a setting


class PersonalError(Exception):
    """Personal data cannot be protected as params.yaml wants it; nothing was read."""


class Secret(NamedTuple):
    """What keys hashes, and its fingerprint for the snapshot's index; both empty where nothing is hashed."""

    key: bytes
    fingerprint: str


def secret(records: Records, days: dict[str, Any]) -> Secret:
    """The secret of this process's environment.

    Raises:
        PersonalError: there is none, or the snapshot's days (``days``, its index) were hashed with another.
    """
    if "hash" not in records.personal.values():
        return Secret(b"", "")
    key = os.environ.get(SECRET, "").encode()
    if not key:
        raise PersonalError(
            f"records.personal hashes a column, and {SECRET} is not set: run this through `nightshift ingest` in a "
            "checkout whose stack `make up` has made, or set it to a random text and keep that as you keep a key"
        )
    fingerprint = hmac.digest(key, b"nightshift", "sha256").hex()[:16]
    others = [day for day, entry in sorted(days.items()) if entry.get("secret", fingerprint) != fingerprint]
    if others:
        raise PersonalError(
            f"{SECRET} is not the secret with which {others[0]} and {len(others) - 1} more day(s) were hashed: a "
            "person would have two hashes. Set the one of before (`.nightshift/secrets.json` of the machine that "
            "ingested them), or begin a data set under another name"
        )
    return Secret(key, fingerprint)


def protect(column: pa.Array, how: str | None, key: bytes) -> pa.Array:
    """A text column without what is personal in it.

    ``hash`` gives equal values equal texts that tell nothing without the key; ``mask`` leaves a value's shape (letters
    become x, digits 0); ``redact`` puts a word in the place of what looks like personal data inside a longer text.
    """
    change: dict[str, Callable[[str], str]] = {
        "hash": lambda text: hmac.digest(key, text.encode(), "sha256").hex()[:32],
        "mask": lambda text: re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "0", text)),
        "redact": lambda text: _without(text)[0],
    }
    if how not in change:
        return column
    return _each(column, change[how])


def scan(columns: dict[str, pa.Array], count: int) -> pa.Array:
    """Of each of ``count`` records what seems to be personal data, a line ``column: kind`` each; null if nothing."""
    lines = [
        pc.fill_null(_each(texts, lambda text, name=name: _lines(name, text), only=MAYBE), "")  # type: ignore[misc]
        for name, texts in columns.items()
    ]
    found = pc.binary_join_element_wise(pa.array([""] * count, pa.string()), *lines, "")
    return pc.if_else(pc.equal(found, ""), None, found)


def _lines(name: str, text: str) -> str:
    return "".join(f"{name}: {kind}\n" for kind in _without(text)[1])


def _each(column: pa.Array, change: Callable[[str], str | None], only: str | None = None) -> pa.Array:
    """``change`` of each different text, once; null for those that do not match ``only``."""
    encoded = column.dictionary_encode()
    texts = encoded.dictionary
    if only is None:
        found = [change(text) for text in texts.to_pylist()]
    else:
        maybe = pc.match_substring_regex(texts, only)
        found = [
            change(text) if might else None for text, might in zip(texts.to_pylist(), maybe.to_pylist(), strict=True)
        ]
    return pa.array(found, pa.string()).take(encoded.indices)


# What looks like personal data. It is only ever called likely: a version number may look like an IP address.

# Each between what may not stand before and behind it. The middle is also RE2's, which reads a million texts a second
# and knows no looking around: what it does not find in a text is not looked for again.
LIKE = {
    "e-mail address": ("", r"[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,5}\.[^\W\d_]{2,24}", ""),
    "IBAN": (r"\b", r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?", r"\b"),
    # The lengths and first digits that card schemes use; of any 16 digits one in ten would do.
    "card number": (
        r"(?<![\d.+])",
        r"\b(?:4(?:[ -]?\d){12}(?:(?:[ -]?\d){3})?|(?:5[1-5]|2[2-7]|35|6[05])(?:[ -]?\d){14}|3[47](?:[ -]?\d){13})",
        r"(?!\.?\d)",
    ),
    "phone number": (
        r"(?<![\w+.])",
        r"(?:(?:\+|\b00)[1-9](?:[ ./()-]{0,2}\d){6,14}|(?:\b0\d{2,4}[ /-]|\(0\d{1,4}\) ?)\d(?:[ -]?\d){4,9}"
        r"|\(\d{3}\) ?\d{3}-\d{4}|\b\d{3}-\d{3}-\d{4})",
        r"(?![\w.]?\d)",
    ),
    "IP address": (
        r"(?<![\w.:])",
        r"(?:\b\d{1,3}(?:\.\d{1,3}){3}\b|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7})",
        r"(?![\w:]|\.\d)",
    ),
}
PATTERNS = {kind: re.compile("".join(LIKE[kind])) for kind in LIKELY}
MAYBE = "|".join(["@", *(middle for _, middle, _ in list(LIKE.values())[1:])])


def _without(text: str) -> tuple[str, list[str]]:
    """The text with ``[e-mail address]`` and the like in the place of what was found, and the kinds found."""
    found: list[str] = []
    for kind, pattern in PATTERNS.items():
        is_one = CHECKS.get(kind, bool)
        text, times = pattern.subn(lambda match: f"[{kind}]" if is_one(match[0]) else match[0], text)  # noqa: B023
        found += [kind] if times and f"[{kind}]" in text else []
    return text, found


def _iban(text: str) -> bool:
    plain = text.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(sign, 36)) for sign in moved)) % 97 == 1


def _card(text: str) -> bool:
    digits = [int(sign) for sign in text if sign.isdigit()]
    luhn = sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return luhn % 10 == 0


def _phone(text: str) -> bool:
    return 8 <= sum(sign.isdigit() for sign in text) <= 15


def _ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(sign.isdigit() for sign in text)


CHECKS = {"IBAN": _iban, "card number": _card, "phone number": _phone, "IP address": _ip}
