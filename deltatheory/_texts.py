"""What counts as a text wherever one comes in: a string that can be written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

__all__ = ["check_texts", "is_text"]


def is_text(value: Any) -> TypeGuard[str]:
    r"""Return whether a value is a string without lone surrogates, which no encoding and no tokenizer takes.

    >>> is_text("naïve"), is_text("half of an emoji: \ud83d"), is_text(7)
    (True, False, False)
    """
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_texts(name: str, texts: Sequence[Any]) -> None:
    """Refuse what is no text.

    Args:
        name: of the argument that holds them.
        texts: what should be texts.

    Raises:
        ValueError: that names the first of them that is none.
    """
    for i, text in enumerate(texts):
        if not is_text(text):
            raise ValueError(f"{name}[{i}]={text!r}: must be a string without lone surrogates")
