"""Certificates that only name a computation and its range: enumerations and exact random evaluations."""

from __future__ import annotations

from collections.abc import Iterator

from proofs_check.certificate import seal

# theorem -> (enumeration, first, last, constant)
ENUMERATED = {
    "T06": ("coordinate_projectors", 1, 10, 1),
    "T07": ("expected_gap", 1, 10, 1),
    "T08": ("quadratic_threshold", 1, 7, 1),
    "T11": ("chi_square_tails", 2, 60, 1),
    "T12": ("gradient_capture", 4, 40, 1),
    "T18": ("hoeffding", 1, 24, 2),
    "T19": ("maurer", 1, 300, 4),
}
# theorem -> (evaluation, sizes); three rounds
EVALUATED = {
    "T20": ("telescoping", {"n": 3, "layers": 4}),
    "T21": ("attainment", {"n": 4}),
    "T23": ("attention_scores", {"n": 4, "d": 3}),
    "T26": ("causal_prompt_is_prefix", {"d": 2, "prompt": 2, "text": 3}),
    "T28": ("lora_dimension", {"m": 4, "n": 5, "r": 2}),
    "T31": ("adjoint", {"n": 3, "m": 2, "steps": 4}),
    "T34": ("lqr_completion", {"n": 3, "m": 2, "steps": 4}),
    "T35": ("gauss_newton_is_lqr", {"n": 3, "m": 2, "steps": 4}),
    "T36": ("minimum_energy", {"outputs": 3, "controls": 6}),
    "T37": ("gramian_is_kernel", {"n": 3, "m": 2, "steps": 4, "samples": 3}),
}
ROUNDS = 3


def prove(theorem: str) -> Iterator[tuple[str, dict]]:
    """Name the computation; the verifier does it."""
    if theorem in ENUMERATED:
        name, first, last, constant = ENUMERATED[theorem]
        data = {"name": name, "range": [first, last], "constant": [constant, 1]}
        yield "enumeration", seal(theorem, "enumeration", data)
    if theorem in EVALUATED:
        name, sizes = EVALUATED[theorem]
        data = {"name": name, "parameters": sizes, "sign": 1, "rounds": ROUNDS}
        yield "evaluation", seal(theorem, "evaluation", data)
