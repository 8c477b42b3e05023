"""Which theorems have certificates, what finds them, and where they are stored."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from proofs_check.certificate import seal
from proofs_check.claims import CLAIMS
from proofs_check.prove import Prover
from proofs_check.prove.computed import computations
from proofs_check.verifier import Outcome, Verdict, verify

FOLDER = Path(__file__).parent / "certificates"
# What has to be right for VERIFIED to be right: the modules that the verifier loads.
TRUSTED = (
    "verifier",
    "claims",
    "certificate",
    "inequalities",
    "replay",
    "assembler",
    "identities",
    "instances",
    "enumerations",
    "evaluations",
    "expressions",
    "rational",
    "intervals",
)
# theorem -> its provers, by module of `prove/` and name
PROVERS: dict[str, tuple[str, ...]] = {
    "T02": ("performance.gap_above",),
    "T03": ("performance.gap_below",),
    "T04": ("performance.sandwich_below", "performance.sandwich_above"),
    "T05": ("performance.subspace_descent",),
    "T09": ("performance.rate_in_subspace", "identities.gradient_descent_every_n"),
    "T10": ("performance.rate_in_whole_space", "identities.lifting"),
    "T15": ("identities.best_rank_one",),
    "T24": ("identities.prefix_is_gate",),
    "T25": ("identities.relative_attention",),
    "T27": ("identities.normal_forms",),
    "T29": ("identities.first_lora_step",),
    "T31": ("identities.adjoint",),
    "T34": ("identities.lqr_step",),
    "T39": ("identities.prefix_reach",),
    "T40": ("identities.gronwall",),
    "T41": ("contraction.switched_systems",),
    "T42": ("identities.determinant_lemma",),
    "T43": ("identities.softmax_half",),
    "T44": ("identities.two_token_attention",),
    "T45": ("identities.attention_unbounded",),
    "T47": ("identities.layer_norm",),
    "T48": ("identities.gelu_curvature", "constants.slopes"),
    "T50": ("identities.gaussian_line",),
    "T54": ("identities.factor_moves",),
    "T57": ("identities.one_token",),
    "X3": ("lipschitz.blocks",),
}
# With those whose certificate only names a computation, which needs no prover.
THEOREMS = sorted({claim.theorem for claim in CLAIMS.values()})


def prove(theorem: str, folder: Path = FOLDER) -> dict[str, Verdict]:
    """Make the certificates of a theorem anew, verify each, and store those that are VERIFIED.

    Args:
        theorem: one of `THEOREMS`.
        folder: where `<theorem>-<name>.json` goes.

    Raises:
        ValueError: for a theorem without a prover.

    """
    if theorem not in THEOREMS:
        raise ValueError(f"theorem={theorem!r} has no prover; these have: {', '.join(THEOREMS)}")
    verdicts = {}
    folder.mkdir(parents=True, exist_ok=True)
    provers = [_prover(name) for name in PROVERS.get(theorem, ())]
    for name, kind, candidates in chain(*(prover() for prover in provers), computations(theorem)):
        text, verdict = first_verified(seal(theorem, kind, data) for data in candidates)
        verdicts[f"{theorem}-{name}"] = verdict
        if verdict.outcome is Outcome.VERIFIED:
            (folder / f"{theorem}-{name}.json").write_text(text)
    return verdicts


def _prover(name: str) -> Prover:
    module, function = name.split(".")
    return getattr(importlib.import_module(f"proofs_check.prove.{module}"), function)


def first_verified(candidates: Iterable[dict]) -> tuple[str, Verdict]:
    """Return the text and the verdict of the first certificate that is VERIFIED, or else of the last."""
    text, verdict = "", Verdict(Outcome.UNDECIDED, reason="no certificate was found")
    for certificate in candidates:
        text = json.dumps(certificate, separators=(",", ":")) + "\n"
        verdict = verify(text)
        if verdict.outcome is Outcome.VERIFIED:
            break
    return text, verdict


def stored(folder: Path = FOLDER) -> list[Path]:
    """Return the stored certificates, sorted by name."""
    return sorted(folder.glob("*.json"))


def missing(verified: Iterable[Verdict]) -> list[str]:
    """Return the claims of the registry that none of these verdicts is about."""
    shown = {verdict.bound for verdict in verified}
    return [f"{claim.theorem} {claim.kind} {claim.name}" for claim in CLAIMS.values() if claim not in shown]


def trusted_lines() -> int:
    """Return how long the trusted modules are, all lines counted."""
    folder = Path(__file__).parent
    return sum(len((folder / f"{name}.py").read_text().splitlines()) for name in TRUSTED)
