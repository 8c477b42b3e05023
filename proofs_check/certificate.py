"""What a certificate is: a JSON of integers with a digest, read without forgiveness.

Rationals are pairs [numerator, denominator], matrices are rows of integers. Floating-point numbers, repeated
keys, missing keys and any change after sealing are refused.
"""

from __future__ import annotations

import hashlib
import json
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
    return body | {"sha256": _digest(body)}


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
    if body.pop("sha256") != _digest(body):
        raise Undecided("damaged or altered: the digest does not fit the content")
    if body["format"] != FORMAT:
        raise Undecided(f"format {body['format']!r} is not {FORMAT}")
    return body


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def title(x: object) -> str:
    """Return x if it is text."""
    if type(x) is not str:
        raise Undecided(f"expected a title, got {x!r}")
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


def rational(pair: list) -> Fraction:
    """Return [numerator, denominator] as a fraction.

    >>> rational([2, 6])
    Fraction(1, 3)
    """
    numerator, denominator = map(integer, pair)
    return Fraction(numerator, denominator)


def vector(pairs: list) -> list[Fraction]:
    """Return pairs as fractions."""
    return [rational(pair) for pair in pairs]


def integers(rows: list) -> list[list[int]]:
    """Return rows of integers, all of one length > 0."""
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise Undecided("a matrix needs rows of one length")
    return [[integer(entry) for entry in row] for row in rows]
