"""What prefixes and prompts do to attention: gates, invariant ratios, inclusion, reachability (T24-T26, T39).

A row of attention has positive weights w_j = exp(score_j); instances hold the weights themselves, which makes
the identities rational.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import (
    as_fractions,
    eye,
    is_psd,
    random_fractions,
    random_positive,
    squared_norm,
)
from deltatheory.theorems.instances import SAMPLE_SET, Instance, array_source, wide_integers, with_entries
from deltatheory.theorems.intervals import exp
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


def _head(seed: int, wide: bool = False) -> Instance:
    """Return the weights and values of a context of 4 tokens and a prefix of 2."""
    rng = np.random.default_rng(seed)
    if wide:
        weights = as_fractions(rng.integers(1, SAMPLE_SET, 6))
        values = wide_integers(rng, 6, 2)
    else:
        weights, values = random_positive(rng, 6), random_fractions(rng, 6, 2)
    parts = {"w": weights[:4], "p": weights[4:], "V": values[:4], "Vp": values[4:]}
    ones = as_fractions([1] * 4)
    return parts | {"softmax": True, "V_seen": values[:4], "key_change": ones, "position_bias": ones}


# ---- T24: the gate ----


def _t24(x: Instance):
    context, prefix = sum(x["w"]), sum(x["p"])
    together = x["w"] @ x["V_seen"] + x["p"] @ x["Vp"]
    if x["softmax"]:
        together = together / (context + prefix)
    gate = prefix / (context + prefix)
    return together, (1 - gate) * (x["w"] @ x["V"] / context) + gate * (x["p"] @ x["Vp"] / prefix)


T24 = register(
    Theorem(
        id="T24",
        name="a prefix is a gated adapter",
        latex=r"o_{pt}=(1-\lambda)o+\lambda o_P,\quad\lambda=Z_P/(Z_P+Z_x)",
        words="attention over prefix and context is a mixture of attention to each; per head and layer",
        kind="identity",
        entries={
            "w": "weights exp(score) of the context, (T,)",
            "p": "weights of the prefix, (k,)",
            "V": "values of the context, (T, e)",
            "Vp": "values of the prefix, (k, e)",
            "V_seen": "values of the context beside the prefix, (T, e)",
            "softmax": "whether the weights are normalised",
        },
        sides=_t24,
        sampler=_head,
        hypotheses=(
            Hypothesis(
                "softmax",
                "the weights are normalised to sum to one (linear attention only adds)",
                lambda x: x["softmax"],
                with_entries(_head, softmax=False, w=as_fractions([1, 2, 3, 4])),
            ),
            Hypothesis(
                "values fixed",
                "the prefix does not change the keys and values of the context (true within one layer)",
                lambda x: bool(np.all(x["V_seen"] == x["V"])),
                with_entries(_head, V_seen=lambda x: x["V"] + 1),
            ),
        ),
        mutant=Mutant(
            "the gate is Z_P / Z_x",
            lambda x: (
                _t24(x)[0],
                (1 - sum(x["p"]) / sum(x["w"])) * (x["w"] @ x["V"] / sum(x["w"]))
                + sum(x["p"]) / sum(x["w"]) * (x["p"] @ x["Vp"] / sum(x["p"])),
            ),
            with_entries(
                _head,
                V=as_fractions([[1, 0]] * 4),
                V_seen=as_fractions([[1, 0]] * 4),
                Vp=as_fractions([[0, 1]] * 2),
            ),
        ),
        proof="Split the sum over positions and multiply and divide each part by its own normaliser.",
        source="He et al. 2022",
        certificates=("prefix_is_gate",),
        status=ProofStatus.expanded("4 tokens of context, 2 of prefix"),
        exact_check=identity_test(_t24, _head),
    )
)


# ---- T25: relative attention ----


def _t25(x: Instance):
    seen = x["w"] * x["key_change"] * x["position_bias"]
    before, after = x["w"] / sum(x["w"]), seen / (sum(seen) + sum(x["p"]))
    return np.outer(after, before), np.outer(before, after)


T25 = register(
    Theorem(
        id="T25",
        name="a prefix leaves relative attention alone",
        latex=r"A^{pt}_{ij}/A^{pt}_{ik}=A_{ij}/A_{ik}",
        words="within one layer a prefix scales all attention to the context alike; cross-multiplied",
        kind="identity",
        entries={
            "w": "weights exp(score) of the context, (T,)",
            "p": "weights of the prefix, (k,)",
            "key_change": "factors of w by changed keys, (T,)",
            "position_bias": "factors of w by shifted positions, (T,)",
        },
        sides=_t25,
        sampler=_head,
        hypotheses=(
            Hypothesis(
                "keys fixed",
                "queries and keys of the context are fixed (from layer 2 on they are not)",
                lambda x: len(set(x["key_change"])) == 1,
                with_entries(_head, key_change=as_fractions([1, 2, 1, 1])),
            ),
            Hypothesis(
                "positions fixed",
                "the prefix shifts no position index or position bias of the scores",
                lambda x: len(set(x["position_bias"])) == 1,
                with_entries(_head, position_bias=as_fractions([1, F(1, 2), F(1, 4), F(1, 8)])),
            ),
        ),
        mutant=Mutant(
            "attention itself is unchanged",
            lambda x: (x["w"] / sum(x["w"]), x["w"] / (sum(x["w"]) + sum(x["p"]))),
            _head,
        ),
        proof="A prefix only adds to the normaliser of the row.",
        source="Petrov et al. 2024",
        certificates=("relative_attention",),
        status=ProofStatus.expanded("4 tokens of context, 2 of prefix"),
        exact_check=identity_test(_t25, _head),
    )
)


# ---- T26: soft prompts are prefixes ----


def _decoder(seed: int, wide: bool = False) -> Instance:
    """Return two attention layers of width 2, a prompt of one token, a text of two, and position vectors."""
    draw = array_source(seed, wide, top=2, bottom=2, offset=0)
    layers = [{name: draw(2, 2) for name in "QKV"} for _ in range(2)]
    parts = {"layers": layers, "prompt": draw(1, 2), "text": draw(2, 2), "positions": draw(3, 2)}
    return parts | {"causal": True, "prompt_first": True, "same_positions": True}


def _attend(layer: dict, tokens: np.ndarray, keys: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Return tokens plus attention with the rational weights 1 + (q·k)², normalised over what is visible."""
    scores = (tokens @ layer["Q"]) @ (keys @ layer["K"]).T
    weights = (1 + scores * scores) * visible
    return tokens + (weights / weights.sum(1)[:, None]) @ (keys @ layer["V"])


def _t26(x: Instance, advance: bool = True):
    k, n = len(x["prompt"]), len(x["text"])
    mask = np.tril(np.ones((n + k, n + k), int)) if x["causal"] else np.ones((n + k, n + k), int)
    text = slice(k, n + k) if x["prompt_first"] else slice(0, n)
    order = [x["prompt"], x["text"]] if x["prompt_first"] else [x["text"], x["prompt"]]
    joint = np.concatenate(order) + x["positions"]
    prefix = x["prompt"] + x["positions"][:k]
    tokens = x["text"] + (x["positions"][k:] if x["same_positions"] else x["positions"][:n])
    beside = np.concatenate([np.ones((n, k), int), mask[k:, k:]], 1)
    for layer in x["layers"]:
        joint = _attend(layer, joint, joint, mask)
        # The prefix of a layer, K and V of the prompt's activations, is made without the text.
        tokens = _attend(layer, tokens, np.concatenate([prefix, tokens]), beside)
        if advance:
            prefix = _attend(layer, prefix, prefix, mask[:k, :k])
    return joint[text], tokens


T26 = register(
    Theorem(
        id="T26",
        name="a soft prompt is a prefix",
        latex=r"\text{causal, prompt first: prompt}=\text{prefix of the prompt's }K,V",
        words="with a causal mask the keys and values of a soft prompt do not depend on the input, "
        "so some prefix does the same; shown for positive rational score functions in place of exp",
        kind="identity",
        entries={
            "layers": 'matrices {"Q", "K", "V"} of every layer, each (e, e)',
            "prompt": "tokens, (k, e)",
            "text": "tokens, (T, e)",
            "positions": "position vectors, (k + T, e)",
            "causal": "whether no token attends to later ones",
            "prompt_first": "whether the prompt comes before the text",
            "same_positions": "whether the text keeps its positions beside the prefix",
        },
        sides=_t26,
        sampler=_decoder,
        hypotheses=(
            Hypothesis(
                "causal mask",
                "no token attends to later ones",
                lambda x: x["causal"],
                with_entries(_decoder, causal=False),
            ),
            Hypothesis(
                "prompt first",
                "the prompt comes before the text",
                lambda x: x["prompt_first"],
                with_entries(_decoder, prompt_first=False),
            ),
            Hypothesis(
                "same positions",
                "the text keeps its position indices beside the prefix",
                lambda x: x["same_positions"],
                with_entries(_decoder, same_positions=False),
            ),
        ),
        mutant=Mutant(
            "the prefix of layer 1 serves every layer",
            lambda x: _t26(x, advance=False),
            _decoder,
        ),
        proof="Induction over layers: activations of the prompt see the prompt only.",
        source="own form; after Petrov et al. 2024 (recalled)",
        certificates=("causal_prompt_is_prefix",),
        status=ProofStatus.identity_tested(4000),
        exact_check=identity_test(_t26, _decoder),
    )
)


# ---- T39: what a prefix can reach ----


def _steered(seed: int) -> Instance:
    """Return a head of width 4, a context of 3 tokens by scores and values, and k prefix tokens."""
    rng = np.random.default_rng(seed)
    k, M = int(rng.integers(1, 4)), F(int(rng.integers(1, 4)), 2)
    q, Wk, Wv = (random_fractions(rng, *shape, top=2, bottom=2) for shape in ((4,), (4, 4), (4, 4)))
    tokens = random_fractions(rng, k, 4)
    norms = [sum(abs(t)) or F(1) for t in tokens]  # at least ‖t‖
    tokens = tokens * as_fractions([[M / norm] for norm in norms])
    alpha = M * sum(abs(Wk.T @ q)) / 2  # at least M ‖Wkᵀ q‖ / √4
    sigma = F(int(sum(map(sum, abs(Wv)))) + 1)
    context = {"s": random_fractions(rng, 3, top=3), "V": random_fractions(rng, 3, 4) + F(1, 5)}
    head = {"q": q, "Wk": Wk, "Wv": Wv, "u": tokens, "k": k, "M": M, "root": F(2)}
    return context | head | {"alpha": alpha, "sigma": sigma}


def _t39(x: Instance):
    """Return both sides squared: o' without its part along o, and the part that the prefix may add."""
    context = [exp(s) for s in x["s"]]
    prefix = [exp((u @ x["Wk"].T) @ x["q"] / x["root"]) for u in x["u"]]
    g, z = sum(context), sum(prefix)
    o = np.array(context) @ x["V"]
    added = np.array(prefix) @ (x["u"] @ x["Wv"].T)
    out = (o + added) / (g + z)
    across = squared_norm(out) - (out @ o) * (out @ o) / squared_norm(o)
    most = x["k"] * exp(x["alpha"])
    return across, (most / (most + g) * x["sigma"] * x["M"]) ** 2


def _pushed(seed: int) -> Instance:
    """Return one prefix token across the context's value, with the largest score that M allows: equality."""
    M = F(seed % 3 + 1)
    q, Wk = as_fractions([2, 0, 0, 0]), eye(4)
    u = as_fractions([[M, 0, 0, 0]])
    context = {"s": as_fractions([1]), "V": as_fractions([[0, 1, 0, 0]])}
    bounds = {"k": 1, "M": M, "alpha": M, "sigma": F(1)}
    return context | {"q": q, "Wk": Wk, "Wv": eye(4), "u": u, "root": F(2)} | bounds


def _score_bound(x: Instance) -> bool:
    direction = x["Wk"].T @ x["q"]
    return x["alpha"] >= 0 and (x["root"] * x["alpha"]) ** 2 >= squared_norm(direction) * x["M"] ** 2


T39 = register(
    Theorem(
        id="T39",
        name="what a prefix can reach",
        latex=r"\|o'_\perp\|\le\lambda_{\max}s_{\max}(W_v)M,\quad\lambda_{\max}=\frac{ke^\alpha}{ke^\alpha+g},"
        r"\ \alpha=\|W_k^\top q\|M/\sqrt d,\ g=\sum_je^{s_j}",
        words="k prefix tokens of norm at most M move the output of a head across its former direction by a "
        "bounded amount: what lies beyond is unreachable; compared squared",
        kind="tight",
        entries={
            "s": "scores of the context, (T,)",
            "V": "its values, (T, e)",
            "q": "query, (e,)",
            "Wk": "key weight, (e, h)",
            "Wv": "value weight, (e, h)",
            "u": "prefix tokens, at most k, (k, h)",
            "k": "how many are allowed",
            "M": "bound on the norm of each",
            "root": "√e",
            "alpha": "bound on their scores",
            "sigma": "bound on ‖Wv‖",
        },
        sides=_t39,
        sampler=_steered,
        hypotheses=(
            Hypothesis(
                "bounded tokens",
                r"$\|u_i\|\le M$",
                lambda x: all(squared_norm(u) <= x["M"] ** 2 for u in x["u"]),
                with_entries(_pushed, u=lambda x: 2 * x["u"]),
            ),
            Hypothesis(
                "number of tokens",
                "at most $k$ prefix tokens",
                lambda x: len(x["u"]) <= x["k"],
                with_entries(_pushed, u=lambda x: np.concatenate([x["u"]] * 3)),
            ),
            Hypothesis(
                "score bound",
                r"$\alpha\ge\|W_k^\top q\|M/\sqrt d$",
                _score_bound,
                with_entries(_pushed, alpha=lambda x: x["alpha"] / 2),
            ),
            Hypothesis(
                "norm of W_v",
                r"$s_{\max}(W_v)\le\sigma$",
                lambda x: is_psd(x["sigma"] ** 2 * eye(4) - x["Wv"].T @ x["Wv"]),
                with_entries(_pushed, Wv=2 * eye(4)),
            ),
        ),
        mutant=Mutant.scaled(_t39, JUST_BELOW_ONE, _pushed),
        extremal=_pushed,
        proof="T24: o' - (1-λ) o = λ o_P with ‖o_P‖ <= s_max(W_v) M, and λ grows with every score.",
        source="own; sharper than the k e^α / g form of Bhargava et al. 2023",
        certificates=("prefix_reach",),
        status=ProofStatus.searched(),
    )
)
