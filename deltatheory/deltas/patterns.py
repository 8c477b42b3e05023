"""Regular expressions that came with a file: tried first where they can be stopped."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

__all__ = ["check_patterns"]

_SECONDS = 5.0
_PLAIN = re.compile(r"(?:[^\\*+?{|(]|\\.)*")  # no repeat and no choice: nothing to try twice
# A process of its own: while `re` matches nothing else runs in an interpreter, and nothing can stop it. The
# forms are those in which LoRA here and PEFT match a pattern with the dotted names of modules.
_PROGRAM = r"""
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for form in "%s", r"(.*\.)?(%s)$", r"(^|.*\.)%s($|\..*)", r"(?:^|.*?\.)%s\.\d+\.":
        try:
            whole = re.compile(form.replace("%s", pattern))
        except re.error:
            continue
        for name in names:
            whole.fullmatch(name), whole.match(name)
"""


def check_patterns(patterns: Iterable[str], names: Sequence[str], where: str) -> None:
    """Refuse regular expressions that take more than seconds on the names of a model's modules.

    (a+)+b, say, needs 2^n steps on n letters. What is no regular expression is left to who matches it.

    Args:
        patterns: of dotted names, or of their ends.
        names: what they will be matched with.
        where: whose they are, for the message.

    Raises:
        ValueError: for patterns that are too slow to match, or too large to compile.
    """
    doubtful = [pattern for pattern in patterns if not _PLAIN.fullmatch(pattern)]
    if not doubtful:
        return
    try:
        tried = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=json.dumps([doubtful, list(names)]),
            text=True,
            timeout=_SECONDS,
            capture_output=True,
        )
    except subprocess.TimeoutExpired:
        tried = None
    if tried is None or tried.returncode:
        raise ValueError(
            f"{where}: its regular expressions {doubtful} are not matched in {_SECONDS:g} s with the names "
            f"of {len(names)} modules; give the names themselves."
        )
