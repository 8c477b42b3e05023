"""Which theorems have certificates, what makes them, and where they are stored."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from proofs_check.verifier import Outcome, Verdict, verify

FOLDER = Path(__file__).parent / "certificates"
# theorem -> the modules of `prove/` that make its certificates
PROVERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("T02", "T03", "T04", "T05"), ("performance",)),
    **dict.fromkeys(("T09", "T10"), ("performance", "identities")),
    **dict.fromkeys(("T06", "T07", "T08", "T11", "T12", "T18", "T19"), ("computed",)),
    **dict.fromkeys(("T20", "T21", "T23", "T26", "T28", "T35", "T36", "T37"), ("computed",)),
    **dict.fromkeys(("T31", "T34"), ("identities", "computed")),
    **dict.fromkeys(("T15", "T24", "T25", "T27", "T29", "T39", "T40"), ("identities",)),
    **dict.fromkeys(("T42", "T43", "T44", "T45", "T47"), ("identities",)),
    "T41": ("contraction",),
    "T48": ("identities", "constants"),
    "X3": ("lipschitz",),
}


def prove(theorem: str, folder: Path = FOLDER) -> dict[str, Verdict]:
    """Make the certificates of a theorem anew, verify each, and store those that are VERIFIED.

    Args:
        theorem: a key of `PROVERS`.
        folder: where `<theorem>-<name>.json` goes.

    Raises:
        ValueError: for a theorem without a prover.

    """
    if theorem not in PROVERS:
        raise ValueError(f"theorem={theorem!r} has no prover; these have: {', '.join(sorted(PROVERS))}")
    verdicts = {}
    folder.mkdir(parents=True, exist_ok=True)
    for module in PROVERS[theorem]:
        prover = importlib.import_module(f"proofs_check.prove.{module}")
        for name, certificate in prover.prove(theorem):
            text = json.dumps(certificate, separators=(",", ":")) + "\n"
            verdicts[f"{theorem}-{name}"] = verdict = verify(text)
            if verdict.outcome is Outcome.VERIFIED:
                (folder / f"{theorem}-{name}.json").write_text(text)
    return verdicts


def stored(folder: Path = FOLDER) -> list[Path]:
    """Return the stored certificates, sorted by name."""
    return sorted(folder.glob("*.json"))


def missing(verdicts: dict[str, Verdict]) -> list[str]:
    """Return the theorems of the catalogue without a VERIFIED certificate among the verdicts."""
    return sorted(set(PROVERS) - {v.theorem for v in verdicts.values() if v.outcome is Outcome.VERIFIED})
