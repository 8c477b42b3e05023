"""Normal forms and geometry of deltas: merging, rescaling, gauge, dimension, the first step (T27-T29)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import as_fractions, eye, inverse, one_like, random_full_rank, rank, zeros
from deltatheory.theorems.instances import Instance, array_source, wide_integers, with_entries
from deltatheory.theorems.theorem import Hypothesis, Mutant, Theorem, register

F = Fraction


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0 * x)


def _drawn(build: Callable[[Callable[..., np.ndarray]], Instance]) -> Callable[..., Instance]:
    """Return the sampler of instances that are built from a source of random arrays."""

    def sample(seed: int, wide: bool = False) -> Instance:
        return build(array_source(seed, wide, top=6, bottom=3, offset=F(1, 7)))

    return sample


# ---- T27: normal forms ----

_lora = _drawn(
    lambda draw: {
        "W": draw(3, 4),
        "B": draw(3, 2),
        "A": draw(2, 4),
        "s": draw(1)[0],
        "x": draw(4),
        "path": "linear",
    }
)


def _t27a(x: Instance):
    code = x["A"] @ x["x"]
    code = _relu(code) if x["path"] == "relu" else code
    return x["W"] @ x["x"] + x["s"] * (x["B"] @ code), (x["W"] + x["s"] * x["B"] @ x["A"]) @ x["x"]


T27a = register(
    Theorem(
        id="T27a",
        name="LoRA merges",
        latex="W_0x+sB(Ax)=(W_0+sBA)x",
        words="a low-rank update can be added to the weight; a parallel adapter with a nonlinearity cannot",
        kind="identity",
        entries={
            "W": "weight, (m, n)",
            "B": "up-projection of LoRA, (m, r)",
            "A": "down-projection, (r, n)",
            "s": "scale of the update",
            "x": "input, (n,)",
            "path": '"linear", or "relu" between A and B',
        },
        sides=_t27a,
        sampler=_lora,
        hypotheses=(
            Hypothesis(
                "linear path",
                "nothing nonlinear (ReLU, dropout) between A and B",
                lambda x: x["path"] == "linear",
                with_entries(
                    _lora, path="relu", x=lambda x: as_fractions([-1, 0, 0, 0]), A=lambda x: abs(x["A"])
                ),
            ),
        ),
        mutant=Mutant(
            "minus sign of the update",
            lambda x: (_t27a(x)[0], (x["W"] - x["s"] * x["B"] @ x["A"]) @ x["x"]),
            with_entries(_lora, s=F(1)),
        ),
        proof="Matrix products are associative and distribute.",
        source="Hu et al. 2022",
        certificates=("normal_forms",),
        status=ProofStatus.expanded("2 x 2"),
        exact_check=identity_test(_t27a, _lora),
    )
)

_scaled_layer = _drawn(
    lambda draw: {"W": draw(3, 3), "b": draw(3), "l": draw(3), "x": draw(3), "bias_scaled": True}
)


def _t27b(x: Instance):
    l = x["l"]
    left = l * (x["W"] @ x["x"] + x["b"])
    return left, np.diag(l) @ x["W"] @ x["x"] + (l * x["b"] if x["bias_scaled"] else x["b"])


T27b = register(
    Theorem(
        id="T27b",
        name="(IA)3 is a diagonal factor of the weight",
        latex=r"l\odot(Wx+b)=(\mathrm{diag}(l)W)x+l\odot b",
        words="rescaling activations is a multiplicative update of the weight, and of its bias",
        kind="identity",
        entries={
            "W": "weight, (m, n)",
            "b": "bias, (m,)",
            "l": "factors of the outputs, (m,)",
            "x": "input, (n,)",
            "bias_scaled": "whether merging scales the bias",
        },
        sides=_t27b,
        sampler=_scaled_layer,
        hypotheses=(
            Hypothesis(
                "bias scaled",
                "the bias is scaled with the weight when merged",
                lambda x: x["bias_scaled"],
                with_entries(
                    _scaled_layer, bias_scaled=False, l=as_fractions([2, 2, 3]), b=as_fractions([1, 1, 1])
                ),
            ),
        ),
        mutant=Mutant(
            "columns scaled instead of rows",
            lambda x: (_t27b(x)[0], x["W"] @ np.diag(x["l"]) @ x["x"] + x["l"] * x["b"]),
            with_entries(_scaled_layer, l=as_fractions([1, 2, 5])),
        ),
        proof="Row by row.",
        source="Liu et al. 2022",
        certificates=("normal_forms",),
        status=ProofStatus.expanded("2 x 2"),
        exact_check=identity_test(_t27b, _scaled_layer),
    )
)

_serial = _drawn(lambda draw: {"down": draw(2, 4), "up": zeros(4, 2), "h": draw(4), "residual": True})


def _t27c(x: Instance):
    out = x["up"] @ _relu(x["down"] @ x["h"])
    return (x["h"] if x["residual"] else 0 * x["h"]) + out, x["h"]


T27c = register(
    Theorem(
        id="T27c",
        name="a fresh serial adapter is the identity",
        latex=r"h+U\,\mathrm{relu}(Dh)=h\quad\text{at }U=0",
        words="with a residual connection and a zero up-projection, inserting an adapter changes nothing",
        kind="identity",
        entries={
            "down": "D, (r, n)",
            "up": "U, (n, r)",
            "h": "activation, (n,)",
            "residual": "whether the output is added to h",
        },
        sides=_t27c,
        sampler=_serial,
        hypotheses=(
            Hypothesis(
                "zero up-projection",
                "$U=0$",
                lambda x: not np.any(x["up"] != 0),
                with_entries(
                    _serial,
                    up=as_fractions(np.ones((4, 2), int)),
                    h=as_fractions([1] * 4),
                    down=lambda x: abs(x["down"]),
                ),
            ),
            Hypothesis(
                "residual connection",
                "the adapter's output is added to its input",
                lambda x: x["residual"],
                with_entries(_serial, residual=False),
            ),
        ),
        mutant=Mutant("no residual connection needed", lambda x: _t27c(x | {"residual": False}), _serial),
        proof="U times anything is 0.",
        source="after Houlsby et al. 2019, who start near 0",
        status=ProofStatus.identity_tested(2),
        exact_check=identity_test(_t27c, _serial),
    )
)


# ---- T28: gauge and dimension ----


def _gauge(seed: int, wide: bool = False) -> Instance:
    rng = np.random.default_rng(seed)
    draw = wide_integers if wide else random_full_rank
    G = draw(rng, 2, 2)
    return {"B": draw(rng, 4, 2), "A": draw(rng, 2, 3), "G": G, "inverse": inverse(G)}


def _t28a(x: Instance):
    return (x["B"] @ x["G"]) @ (x["inverse"] @ x["A"]), x["B"] @ x["A"]


T28a = register(
    Theorem(
        id="T28a",
        name="gauge of LoRA",
        latex="(BG)(G^{-1}A)=BA",
        words="r² directions of (B, A) do not change the update",
        kind="identity",
        entries={
            "B": "up-projection, (m, r)",
            "A": "down-projection, (r, n)",
            "G": "what B is multiplied by, (r, r)",
            "inverse": "what A is multiplied by, (r, r)",
        },
        sides=_t28a,
        sampler=_gauge,
        hypotheses=(
            Hypothesis(
                "inverse factors",
                "the factors are multiplied by $G$ and $G^{-1}$",
                lambda x: bool(np.all(x["G"] @ x["inverse"] == eye(2))),
                with_entries(_gauge, G=2 * eye(2), inverse=lambda x: 2 * eye(2)),
            ),
        ),
        mutant=Mutant(
            "transpose for inverse", lambda x: (x["B"] @ x["G"] @ x["G"].T @ x["A"], _t28a(x)[1]), _gauge
        ),
        proof="Associativity.",
        source="classical",
        certificates=("lora_dimension",),
        status=ProofStatus.identity_tested(12),
        exact_check=identity_test(_t28a, _gauge),
    )
)


def _factors(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    m, n = (int(k) for k in rng.integers(2, 5, 2))
    r = int(rng.integers(1, min(m, n) + 1))
    return {"B": random_full_rank(rng, m, r), "A": random_full_rank(rng, r, n)}


def _t28b(x: Instance):
    B, A = x["B"], x["A"]
    (m, r), n = B.shape, A.shape[1]
    one = one_like(B[0, 0])
    columns = []
    for i in range(m):
        for j in range(r):
            unit = 0 * B
            unit[i, j] = one
            columns.append((unit @ A).ravel())
    for i in range(r):
        for j in range(n):
            unit = 0 * A
            unit[i, j] = one
            columns.append((B @ unit).ravel())
    return rank(np.array(columns)), r * (m + n - r)


def _enumerate_t28b() -> bool:
    """Return whether it holds at unit matrices, to which any factors of full rank can be brought."""
    shapes = [(m, n, r) for m in range(1, 6) for n in range(1, 6) for r in range(1, min(m, n) + 1)]
    instances = [{"B": eye(m)[:, :r], "A": eye(n)[:r]} for m, n, r in shapes]
    return all(a == b for a, b in map(_t28b, instances))


_square_factors = with_entries(_factors, B=eye(3)[:, :2], A=eye(3)[:2])

T28b = register(
    Theorem(
        id="T28b",
        name="dimension of LoRA",
        latex=r"\mathrm{rank}\,\partial(BA)/\partial(B,A)=r(m+n-r)",
        words="at full rank the update moves in r(m + n - r) directions; at B = 0, where training starts, "
        "only in r m of them",
        kind="identity",
        entries={
            "B": "up-projection, (m, r)",
            "A": "down-projection, (r, n)",
        },
        sides=_t28b,
        sampler=_factors,
        hypotheses=(
            Hypothesis(
                "rank of B",
                r"$\mathrm{rank}\,B=r$",
                lambda x: rank(x["B"]) == x["B"].shape[1],
                with_entries(_square_factors, B=zeros(3, 2)),
            ),
            Hypothesis(
                "rank of A",
                r"$\mathrm{rank}\,A=r$",
                lambda x: rank(x["A"]) == x["A"].shape[0],
                with_entries(_square_factors, A=zeros(2, 3)),
            ),
        ),
        mutant=Mutant(
            "all r (m + n) parameters count",
            lambda x: (_t28b(x)[0], x["B"].shape[1] * (x["B"].shape[0] + x["A"].shape[1])),
            _factors,
        ),
        proof="dB A + B dA = 0 exactly for dB = B X, dA = -X A: r² null directions; invariant under "
        "invertible row and column operations, so one pair of factors a shape decides.",
        source="classical (manifold of fixed rank)",
        certificates=("lora_dimension",),
        status=ProofStatus.enumerated("shapes up to 5 x 5; invariance covers all factors of full rank"),
        exact_check=_enumerate_t28b,
    )
)


# ---- T29: the first step ----


def _first_of(draw) -> Instance:
    loss = {"W": draw(3, 3), "target": draw(3, 3), "eta": draw(1)[0], "s": draw(1)[0]}
    return loss | {"B": zeros(3, 2), "A": draw(2, 3), "optimizer": "gradient descent"}


_first = _drawn(_first_of)


def _t29(x: Instance):
    """Return the step of the loss ½‖W - target‖²: G = W0 - target at the start."""
    s, eta, A, B = x["s"], x["eta"], x["A"], x["B"]
    G = x["W"] + s * B @ A - x["target"]
    grad_B, grad_A = s * G @ A.T, s * B.T @ G
    if x["optimizer"] == "sign descent":
        grad_B, grad_A = ((g > 0) * 1 - (g < 0) * 1 for g in (grad_B, grad_A))
    change = s * (B - eta * grad_B) @ (A - eta * grad_A) - s * B @ A
    return change, -eta * s * s * (x["W"] - x["target"]) @ A.T @ A


T29 = register(
    Theorem(
        id="T29",
        name="the first step of LoRA",
        latex=r"\Delta W=-\eta s^2\,G\,A^\top A\quad\text{at }B=0",
        words="one gradient step from B = 0 sees the full gradient G through the row space of the random A",
        kind="identity",
        entries={
            "W": "frozen weight, (m, n)",
            "target": "where the loss ½‖W - target‖² is least, (m, n)",
            "B": "up-projection, (m, r)",
            "A": "down-projection, (r, n)",
            "s": "scale of the update",
            "eta": "learning rate",
            "optimizer": '"gradient descent" or "sign descent"',
        },
        sides=_t29,
        sampler=_first,
        hypotheses=(
            Hypothesis(
                "B starts at 0",
                "$B=0$",
                lambda x: not np.any(x["B"] != 0),
                with_entries(
                    _first, B=eye(3)[:, :2], A=eye(3)[:2], s=F(1), eta=F(1), target=zeros(3, 3), W=eye(3)
                ),
            ),
            Hypothesis(
                "plain gradient descent",
                "no rescaling of coordinates (Adam's first step is a sign)",
                lambda x: x["optimizer"] == "gradient descent",
                with_entries(
                    _first, optimizer="sign descent", target=lambda x: x["W"] - 7 * eye(3), s=F(1), eta=F(1)
                ),
            ),
        ),
        mutant=Mutant(
            "scale s instead of s squared",
            lambda x: (_t29(x)[0], _t29(x)[1] / x["s"]),
            with_entries(_first, s=F(3), eta=F(1)),
        ),
        proof="At B = 0 the gradient in A is 0 and the one in B is s G Aᵀ.",
        source="folklore; own form",
        certificates=("first_lora_step",),
        status=ProofStatus.expanded("2 x 2, rank 1"),
        exact_check=identity_test(_t29, _first),
    )
)
