"""The registry: which claims a certificate can prove, of which theorem each is, and how much of it.

A claim is bound by its kind and by the name of its object, which `verifier` rebuilds from its definition; a
certificate that names another theorem is UNDECIDED. `scope` says what is left to prose, or of which instance
or range the claim is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proofs_check.certificate import Undecided, name


class Extent(StrEnum):
    """How much of a theorem a claim is."""

    COMPLETE = "complete"  # the statement, from the inequalities that define its class
    STEP = "step by prose"  # the step that needs computing; the rest is a proof in words
    INSTANCE = "instance"  # one size, network or number of steps
    ENUMERATED = "enumerated"  # every case up to a size


@dataclass(frozen=True)
class Statement:
    """What a certificate of a kind may prove.

    Args:
        theorem: whose claim it is.
        kind: how it is checked.
        name: of the object, a key of the table of that kind.
        extent: how much of the theorem it is.
        scope: which instance or range, or what is left to prose.

    """

    theorem: str
    kind: str
    name: str
    extent: Extent
    scope: str


_COMPLETE, _STEP, _INSTANCE, _ENUMERATED = Extent
_ALL = "every dimension"
CLAIMS: dict[tuple[str, str], Statement] = {
    (claim.kind, claim.name): claim
    for claim in (
        Statement("T02", "performance", "gap_above", _COMPLETE, _ALL),
        Statement("T03", "performance", "gap_below", _COMPLETE, _ALL),
        Statement("T04", "performance", "sandwich_below", _COMPLETE, _ALL),
        Statement("T04", "performance", "sandwich_above", _COMPLETE, _ALL),
        Statement("T05", "performance", "subspace_descent", _COMPLETE, _ALL),
        Statement(
            "T06", "enumeration", "coordinate_projectors", _ENUMERATED, "coordinate projectors, D <= 10"
        ),
        Statement("T07", "enumeration", "expected_gap", _ENUMERATED, "coordinate projectors, D <= 10"),
        Statement("T08", "enumeration", "quadratic_threshold", _ENUMERATED, "Vandermonde position, D <= 7"),
        Statement("T09", "performance", "gradient_descent_in_subspace", _INSTANCE, "N and h of each"),
        Statement("T09", "identity", "gradient_descent_every_n", _STEP, "h = 1, every N; the sum over steps"),
        Statement("T10", "performance", "gradient_descent", _INSTANCE, "N and h of each"),
        Statement("T10", "identity", "lifting", _INSTANCE, "the part across S, N = 3"),
        Statement("T11", "enumeration", "chi_square_tails", _ENUMERATED, "one point, even d <= 60"),
        Statement("T12", "enumeration", "gradient_capture", _ENUMERATED, "even d and D <= 40"),
        Statement("T15", "identity", "best_rank_one", _INSTANCE, "2 x 2"),
        Statement("T18", "enumeration", "hoeffding", _ENUMERATED, "one code, n <= 24"),
        Statement("T19", "enumeration", "maurer", _ENUMERATED, "Maurer's sum, n <= 300"),
        Statement("T20", "evaluation", "telescoping", _INSTANCE, "3 x 3, 4 layers"),
        Statement("T21", "evaluation", "attainment", _INSTANCE, "4 x 4, 2 layers"),
        Statement("T23", "evaluation", "attention_scores", _INSTANCE, "4 x 3"),
        Statement("T24", "identity", "prefix_is_gate", _INSTANCE, "2 tokens of prefix beside 4"),
        Statement("T25", "identity", "relative_attention", _INSTANCE, "2 tokens of prefix beside 4"),
        Statement("T26", "evaluation", "causal_prompt_is_prefix", _INSTANCE, "2 layers, 2 tokens before 3"),
        Statement("T27", "identity", "normal_forms", _INSTANCE, "2 x 2, rank 1"),
        Statement("T28", "evaluation", "lora_dimension", _INSTANCE, "4 x 5, rank 2"),
        Statement("T29", "identity", "first_lora_step", _INSTANCE, "2 x 2, rank 1"),
        Statement("T31", "identity", "adjoint", _INSTANCE, "scalar states, T = 3"),
        Statement("T31", "evaluation", "adjoint", _INSTANCE, "bilinear dynamics, T = 4"),
        Statement("T34", "identity", "lqr_step", _STEP, "2 states, 1 control; the induction over steps"),
        Statement("T34", "evaluation", "lqr_completion", _INSTANCE, "3 states, 2 controls, T = 4"),
        Statement("T35", "evaluation", "gauss_newton_is_lqr", _INSTANCE, "3 states, 2 controls, T = 4"),
        Statement("T36", "evaluation", "minimum_energy", _INSTANCE, "3 outputs, 6 controls"),
        Statement("T37", "evaluation", "gramian_is_kernel", _INSTANCE, "3 states, 2 controls, T = 4"),
        Statement("T39", "identity", "prefix_reach", _STEP, "2 tokens beside 3; the bound on the scores"),
        Statement("T40", "identity", "gronwall", _INSTANCE, "that it is attained, T = 4"),
        Statement("T41", "contraction", "switched", _INSTANCE, "one system, 5 states"),
        Statement("T41", "contraction", "reflections", _INSTANCE, "one system, 3 states"),
        Statement("T42", "identity", "determinant_lemma", _STEP, "2 x 2, rank one; the order of inverses"),
        Statement("T43", "identity", "softmax_half", _STEP, "every n; Gershgorin's theorem"),
        Statement("T44", "identity", "two_token_attention", _INSTANCE, "2 tokens"),
        Statement("T45", "identity", "attention_unbounded", _STEP, "every s; the limit of large s"),
        Statement("T47", "identity", "layer_norm", _INSTANCE, "n = 3"),
        Statement("T48", "identity", "gelu_curvature", _STEP, "every x; the derivative of erf"),
        Statement("T48", "interval", "gelu", _STEP, "0 <= x <= 8; beyond, monotony and symmetry"),
        Statement("T48", "interval", "silu", _STEP, "0 <= x <= 8; beyond, monotony and symmetry"),
        Statement(
            "T49",
            "enumeration",
            "two_directions",
            _ENUMERATED,
            "the functional form, values of two points <= 3",
        ),
        Statement("T50", "evaluation", "exact_gap", _INSTANCE, "4 dimensions, subspaces of 2"),
        Statement("T50", "identity", "gaussian_line", _STEP, "lines in the plane; the integrals by arctan"),
        Statement("T51", "evaluation", "landscape", _INSTANCE, "2 x 2, rank 1"),
        Statement("T52", "evaluation", "lora_step", _INSTANCE, "3 x 4, rank 2; the step and the balance"),
        Statement("T54", "identity", "factor_moves", _INSTANCE, "2 features"),
        Statement("T55", "enumeration", "sign_moments", _ENUMERATED, "signs, rank and width <= 3"),
        Statement("T56", "enumeration", "kernel_variance", _ENUMERATED, "signs, one M a width, rank <= 3"),
        Statement("T57", "identity", "one_token", _INSTANCE, "3 tokens of prefix beside 2"),
        Statement("T58", "evaluation", "integral_action", _INSTANCE, "2 states, 1 control"),
        Statement("X3", "lipschitz", "two_units", _INSTANCE, "one network"),
        Statement("X3", "lipschitz", "minilm_layer_0", _INSTANCE, "one network"),
        Statement("X3", "lipschitz", "minilm_layer_5", _INSTANCE, "one network"),
    )
}

# What the data of each kind hold, no more and no less; the first is the name of the object.
FIELDS: dict[str, tuple[str, ...]] = {
    "performance": ("setting", "parameters", "rates", "tight", "multipliers", "witness"),
    "lipschitz": (
        *("name", "inner", "outer", "scale", "slopes", "bound", "tight"),
        *("unit", "multipliers", "reciprocals", "witness"),
    ),
    "contraction": ("name", "vertices", "metric", "rate", "tight", "witness"),
    "interval": ("name", "breaks", "bound", "attained", "gap"),
    "identity": ("name", "pairs"),
    "evaluation": ("name", "parameters", "sign", "rounds"),
    "enumeration": ("name", "range", "constant"),
}


def bound(body: dict) -> Statement:
    """Return the claim that a certificate is about.

    Raises:
        Undecided: if the registry has none, or it is of another theorem.

    """
    theorem, kind, data = name(body["theorem"]), name(body["kind"]), body["data"]
    if kind not in FIELDS:
        raise Undecided(f"unknown kind {kind}: known are {', '.join(FIELDS)}")
    if type(data) is not dict or set(data) != {*FIELDS[kind]}:
        raise Undecided(f"the data of kind {kind} are {', '.join(FIELDS[kind])}")
    asked = name(data[FIELDS[kind][0]])
    claim = CLAIMS.get((kind, asked))
    if claim is None:
        raise Undecided(f"no {kind} named {asked} is known")
    if claim.theorem != theorem:
        raise Undecided(f"{asked} is a claim of {claim.theorem}, not of {theorem}")
    return claim
