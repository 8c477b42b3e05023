"""The verifier: a certificate of integers is VERIFIED, REFUTED or UNDECIDED, without a tolerance.

VERIFIED: the claim of the registry that the certificate names holds, as it is printed. REFUTED: the
certificate's own witness, or a case of an enumeration, shows exactly that its claim is false. UNDECIDED:
neither, which includes every damaged file, and every true claim that is none of the registry's. Theorem and
claim are worded here from what was checked, never by the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from proofs_check import claims, inequalities, replay
from proofs_check.certificate import Refuted, Undecided, read, shown
from proofs_check.claims import Statement


class Outcome(Enum):
    """The three answers."""

    VERIFIED = "VERIFIED"
    REFUTED = "REFUTED"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True)
class Verdict:
    """What a certificate came to; all of it can be printed, on one line each.

    Args:
        outcome: the answer.
        bound: the claim of the registry that it is about, if it is about one.
        claim: in words, as it was checked.
        status: how it is known.
        reason: the witness, or what is missing.

    """

    outcome: Outcome
    bound: Statement | None = None
    claim: str = ""
    status: str = ""
    reason: str = ""

    @property
    def theorem(self) -> str:
        """Whose claim it is, by the registry."""
        return self.bound.theorem if self.bound else "?"


def verify(text: str | bytes) -> Verdict:
    """Check one certificate, given as the text of its JSON; bad input is UNDECIDED, never an exception."""
    bound = None
    try:
        body = read(text)
        bound = claims.bound(body)
        check, status = KINDS[bound.kind]
        claim, how = check(bound.name, body["data"])
        return Verdict(Outcome.VERIFIED, bound, shown(claim, most=100_000), status.format(how), shown(how))
    except Refuted as witness:
        return Verdict(Outcome.REFUTED, bound, reason=shown(str(witness)))
    except Undecided as gap:
        return Verdict(Outcome.UNDECIDED, bound, reason=shown(str(gap)))
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError, AttributeError) as error:
        reason = shown(f"damaged: {type(error).__name__}: {error}")
        return Verdict(Outcome.UNDECIDED, bound, reason=reason)


def verify_file(path: Path) -> Verdict:
    """Check one file."""
    try:
        return verify(path.read_bytes())
    except (OSError, ValueError) as error:
        return Verdict(Outcome.UNDECIDED, reason=shown(str(error)))


# kind -> (its check: name of the object, data -> (claim, how it is known), the status of what it verifies)
KINDS: dict[str, tuple[Callable[[str, dict], tuple[str, str]], str]] = {
    "performance": (inequalities.performance, "proved_exact"),
    "lipschitz": (inequalities.lipschitz, "proved_exact"),
    "contraction": (inequalities.contraction, "proved_exact"),
    "interval": (replay.interval, "proved_exact"),
    "identity": (replay.identity, "proved_identity"),
    "evaluation": (replay.evaluation, "identity_tested({})"),
    "enumeration": (replay.enumeration, "enumerated({})"),
}
