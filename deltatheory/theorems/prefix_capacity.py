"""What a prefix can hold: for one query it is one effective token, d_v + 1 numbers (T57).

A context c attends to its tokens with weights w_cj = exp(score) and values V_cj; the prefix adds weights
p_ci, which for a fixed query are the same in every context, and values P_i.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import as_fractions, one_like, rank
from deltatheory.theorems.instances import Instance, array_source, with_entries
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction
_ENTRIES = {
    "w": "exp(scores) of the contexts' tokens, (contexts, tokens)",
    "V": "their values, (contexts, tokens, d_v)",
    "p": "exp(scores) of the prefix in each context, (contexts, k)",
    "P": "values of the prefix, (k, d_v)",
}


def _contexts(seed: int, wide: bool = False) -> Instance:
    draw = array_source(seed, wide)
    rows, k = 2, 2 + seed % 2
    p = draw(k)
    x = {"w": draw(rows, 3), "V": draw(rows, 3, 2), "p": np.stack([p] * rows), "P": draw(k, 2)}
    return x if wide else x | {"w": abs(x["w"]), "p": abs(x["p"])}


def _plain(seed: int) -> Instance:
    """Return two contexts of one token each, of different weight, and a prefix of two tokens."""
    V, P = as_fractions([[[1], [2]], [[0], [1]]]), as_fractions([[3 + seed], [5 + seed]])
    w = as_fractions([[1, 1], [2, 1]])
    return {"w": w, "V": V, "p": as_fractions([[1, 2]] * 2), "P": P}


_one_query = Hypothesis(
    "one query",
    "all contexts attend to the prefix with the same query",
    lambda x: bool(np.all(x["p"] == x["p"][0])),
    with_entries(_plain, p=as_fractions([[1, 2], [3, 1]])),
)


def _attended(w: np.ndarray, V: np.ndarray, p: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Return what a query reads of its context and the prefix, (d_v,)."""
    return (w @ V + p @ P) / (w.sum() + p.sum())


def _outputs(x: Instance) -> np.ndarray:
    return np.stack([_attended(w, V, p, x["P"]) for w, V, p in zip(x["w"], x["V"], x["p"], strict=True)])


def _t57a(x: Instance):
    total = x["p"][0].sum()
    token = x["p"][0] @ x["P"] / total
    one = x | {"p": np.stack([[total]] * len(x["w"])), "P": token[None]}
    return _outputs(x), _outputs(one)


T57a = register(
    Theorem(
        id="T57a",
        name="a prefix is one token for a query",
        latex=r"\frac{\sum_jw_jv_j+\sum_ip_iv_i'}{\sum_jw_j+\sum_ip_i}"
        r"=\frac{\sum_jw_jv_j+Z\bar v}{\sum_jw_j+Z},\quad Z=\sum_ip_i,\ \bar v=\tfrac1Z\sum_ip_iv_i'",
        words="however long a prefix is, a query reads one effective token of it, in every context alike",
        kind="identity",
        entries=_ENTRIES,
        sides=_t57a,
        sampler=_contexts,
        hypotheses=(_one_query,),
        mutant=Mutant(
            "a token of weight 1",
            lambda x: (_t57a(x)[0], _t57a(x | {"p": x["p"] / x["p"][0].sum()})[1]),
            _plain,
        ),
        proof="The prefix enters the numerator and the denominator by its sums alone.",
        source="own form",
        certificates=("one_token",),
        status=ProofStatus.expanded("3 tokens of prefix beside 2"),
        exact_check=identity_test(_t57a, _contexts),
    )
)


def _jacobian(x: Instance) -> np.ndarray:
    """Return the derivatives of all outputs in the weights p_i, moved alike in all contexts, and values P."""
    rows = []
    for out, w, p in zip(_outputs(x), x["w"], x["p"], strict=True):
        total = w.sum() + p.sum()
        for i, value in enumerate(out):
            by_value = np.zeros_like(x["P"])
            by_value[:, i] = p
            rows.append(np.concatenate([x["P"][:, i] - value, by_value.ravel()]) / total)
    return np.stack(rows)


def _t57b(x: Instance):
    one = one_like(x["P"][0, 0])
    return one * rank(_jacobian(x)), one * (x["P"].shape[1] + 1)


T57b = register(
    Theorem(
        id="T57b",
        name="what a prefix can hold",
        latex=r"\mathrm{rank}\,\frac{\partial(o_1,\dots,o_n)}{\partial(\text{prefix})}\le d_v+1",
        words="for one query a prefix of any length steers the outputs of all contexts in at most d_v + 1 "
        "directions; what depends on the context has to come from its queries",
        kind="tight",
        entries=_ENTRIES,
        sides=_t57b,
        sampler=_contexts,
        hypotheses=(
            Hypothesis(
                "one query",
                "all contexts attend to the prefix with the same query",
                lambda x: bool(np.all(x["p"] == x["p"][0])),
                with_entries(
                    _plain,
                    w=as_fractions([[1, 1], [2, 1], [1, 3]]),
                    V=as_fractions([[[1], [2]], [[0], [1]], [[4], [1]]]),
                    p=as_fractions([[1, 2, 1], [3, 1, 1], [1, 1, 7]]),
                    P=as_fractions([[3], [5], [1]]),
                ),
            ),
        ),
        mutant=Mutant.scaled(_t57b, JUST_BELOW_ONE, _plain),
        extremal=_plain,
        proof="T57a: all outputs are functions of Z and v̄, which are d_v + 1 numbers.",
        source="own form",
        status=ProofStatus.searched(),
    )
)
