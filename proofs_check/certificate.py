"""What a certificate is: a JSON of integers with a digest, read without forgiveness.

Rationals are pairs [numerator, denominator > 0], matrices are rows of integers. Floating-point numbers, true
and false, repeated keys, missing keys and any change after sealing are refused. What a file says of itself
(theorem, kind, names) is a key of the registry or nothing, and is never printed as it stands.
"""

from __future__ import annotations

import hashlib
import json
import re
from fractions import Fraction

FORMAT = 1


class Refuted(Exception):
    """An exact witness against the claim."""


class Undecided(Exception):
    """The certificate does not prove its claim."""


def seal(theorem: str, kind: str, data: dict) -> dict:
    """Return a certificate with its digest: one changed character anywhere leaves it UNDECIDED.

    >>> read(json.dumps(seal("T00", "none", {"n": 1})))["data"]
    {'n': 1}
    """
    body = {"format": FORMAT, "theorem": theorem, "kind": kind, "data": data}
    return body | {"sha256": digest(body)}


def read(text: str | bytes) -> dict:
    """Return the content of a certificate, without its digest.

    Raises:
        Undecided: for anything but an undamaged certificate.
        ValueError: for text that is not JSON.

    """

    def refuse(token: str) -> None:
        raise Undecided(f"only integers are allowed, found {token}")

    def once(pairs: list[tuple[str, object]]) -> dict:
        if len(dict(pairs)) != len(pairs):
            raise Undecided("a key occurs twice")
        return dict(pairs)

    body = json.loads(text, parse_float=refuse, parse_constant=refuse, object_pairs_hook=once)
    if not isinstance(body, dict) or set(body) != {"format", "theorem", "kind", "data", "sha256"}:
        raise Undecided("a certificate has the keys format, theorem, kind, data and sha256")
    if body.pop("sha256") != digest(body):
        raise Undecided("damaged or altered: the digest does not fit the content")
    if integer(body["format"]) != FORMAT:
        raise Undecided(f"format {body['format']} is not {FORMAT}")
    return body


def digest(x: object) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(x, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def shown(text: str, most: int = 400) -> str:
    r"""Return text as it may be printed: one line of ASCII, cut.

    >>> print(shown("a\nVERIFIED \x1b[1m"))
    a\nVERIFIED \x1b[1m
    """
    line = text[: most + 1].encode("unicode_escape").decode()
    return line if len(line) <= most else f"{line[:most]}..."


def name(x: object) -> str:
    """Return x if it can be a key of the registry: letters, digits and underscores."""
    if type(x) is not str or not re.fullmatch(r"[A-Za-z0-9_]{1,40}", x, re.ASCII):
        raise Undecided(f"expected a name, got {x!r}")
    return x


def items(x: object) -> list:
    """Return x if it is a list."""
    if type(x) is not list:
        raise Undecided(f"expected a list, got {x!r}")
    return x


def integer(x: object) -> int:
    """Return x if it is an integer; True and False are none."""
    if type(x) is not int:
        raise Undecided(f"expected an integer, got {x!r}")
    return x


def among(x: object, least: int, most: int) -> int:
    """Return x if it is an integer from `least` to `most`: what a certificate may ask for has an end."""
    if not least <= integer(x) <= most:
        raise Undecided(f"expected an integer from {least} to {most}, got {x!r:.20}")
    return integer(x)


def rational(pair: object) -> Fraction:
    """Return [numerator, denominator] as a fraction.

    >>> rational([2, 6])
    Fraction(1, 3)
    """
    if len(items(pair)) != 2:
        raise Undecided(f"expected a numerator and a denominator, got {pair!r}")
    numerator, denominator = map(integer, items(pair))
    if denominator <= 0:
        raise Undecided(f"a denominator has to be > 0, got {denominator}")
    return Fraction(numerator, denominator)


def vector(pairs: object) -> list[Fraction]:
    """Return pairs as fractions."""
    return [rational(pair) for pair in items(pairs)]


def integers(rows: object) -> list[list[int]]:
    """Return rows of integers, all of one length > 0."""
    lengths = {len(items(row)) for row in items(rows)}
    if len(lengths) != 1 or 0 in lengths:
        raise Undecided("a matrix needs rows of one length")
    return [[integer(entry) for entry in row] for row in items(rows)]
