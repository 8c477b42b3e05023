"""What a prompt of k tokens can reach: a bound for one head, and a search on a data set.

k-ε controllability (Bhargava et al. 2023, definition 3): the share of pairs (text, target) whose target some
prompt of at most k tokens makes the most likely answer is at least 1 - ε. Here prompts are vectors, one for
each pair, found by gradient ascent: what they reach is a lower bound of the share. An upper bound is known
for one head in one layer only (`prefix_reach_bound`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.backbones.edit import with_prefix
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import start_embeddings, start_tokens
from deltatheory.problems import FORWARD, ClassificationProblem, CrossEntropy
from deltatheory.problems.tokens import batch_of, token_rows
from deltatheory.results import Result, ResultLog
from deltatheory.tasks import Examples

__all__ = [
    "PrefixBound",
    "PromptReachability",
    "PromptSearch",
    "class_reachability",
    "prefix_reach_bound",
    "token_reachability",
]

NO_UPPER_BOUND = (
    "no upper bound: the bound for one head does not pass through residual connections, normalizations and "
    "further layers; what was not reached may be reachable"
)
_CLOUD = 32  # words whose keys and values say how long those of a prefix may be


@dataclass(frozen=True)
class PromptSearch:
    """What is looked for, and how: by Adam on the cross-entropy of the target, inside the embedding cloud.

    Every vector of a prompt stays as short as the longest word embedding; those of a prefix as short as the
    longest key (value) of random words in the same head.

    Attributes:
        kind: "prompt" (virtual tokens before the word embeddings) or "prefix" (keys and values before each
            block's own), one for each target.
        margin: by how much the target's logit must exceed all others.
        steps: per restart.
        rate: learning rate, in root mean squares of what the prompt starts from.
        restarts: from other random words.
        chunk: pairs that are searched at once.
        seed: of the words.
    """

    kind: Literal["prompt", "prefix"] = "prompt"
    margin: float = 0.0
    steps: int = 60
    rate: float = 0.3
    restarts: int = 2
    chunk: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("prompt", "prefix"):
            raise ValueError(f"kind={self.kind!r}: allowed are 'prompt' and 'prefix'.")
        for name in ("steps", "restarts", "chunk"):
            check_number(name, getattr(self, name), whole=True, above=0)
        check_number("rate", self.rate, above=0)
        check_number("margin", self.margin)
        check_number("seed", self.seed, whole=True, least=0)


@dataclass(frozen=True, eq=False)
class PromptReachability(Result):
    """Which targets prompts reach, by the number of tokens.

    Attributes:
        kind: "prompt" or "prefix".
        margin: by how much the target's logit had to exceed all others.
        lengths: k, ascending.
        shortest: for each pair the least of the lengths that reached it; `None` where none did.
        margins: for each pair the largest margin met.
        upper: what is known from above.
        passes: forward-equivalents over single examples: a forward 1, a backward for activations only 1.
        seconds: time taken.
    """

    kind: str
    margin: float
    lengths: tuple[int, ...]
    shortest: list[int | None]
    margins: list[float]
    upper: str
    passes: float
    seconds: float

    def share(self, length: int) -> float:
        """Return the share of pairs reached with at most `length` tokens; ε is at most 1 minus this."""
        return self._reached(length) / len(self.shortest)

    def interval(self, length: int) -> tuple[float, float]:
        """Return the 95 % interval of that share over texts like these (Clopper & Pearson 1934)."""
        from scipy.stats import binomtest

        found = binomtest(self._reached(length), len(self.shortest)).proportion_ci()
        return float(found.low), float(found.high)

    def _reached(self, length: int) -> int:
        return sum(k is not None and k <= length for k in self.shortest)


@dataclass(frozen=True)
class _Chunk:
    """What the log keeps of a chunk."""

    margins: list[float]
    passes: float


def class_reachability(
    problem: ClassificationProblem,
    pairs: Sequence[tuple[int, int]],
    lengths: Sequence[int],
    *,
    search: PromptSearch | None = None,
    log: ResultLog | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> PromptReachability:
    """Find for how many (test example, class) some prompt makes the class win.

    Args:
        problem: its backbone, head and test split; its delta plays no part.
        pairs: (index of the test example, class to reach).
        lengths: k, each at least 0 (the frozen network).
        search: what is looked for, and how.
        log: where finished chunks are kept; a search that was cut off goes on from there.
        on_chunk: called with (pairs done, pairs in all) for each length.

    Raises:
        ValueError: for no pair, one that is not there, or lengths that are negative or too long for the
            backbone.
    """
    classes = problem.task.num_classes
    for index, target in pairs:
        if not (0 <= index < len(problem.test) and 0 <= target < classes):
            raise ValueError(
                f"pairs has {(index, target)}: allowed are examples 0..{len(problem.test) - 1} and classes "
                f"0..{classes - 1}."
            )
    return _reachability(
        problem.backbone,
        lambda chosen: problem.batch(problem.test, [pairs[i][0] for i in chosen])[0],
        problem.read,
        [target for _, target in pairs],
        {"problem": problem.identity(), "pairs": [list(pair) for pair in pairs]},
        lengths,
        search or PromptSearch(),
        log,
        on_chunk,
    )


def token_reachability(
    backbone: Backbone,
    texts: Sequence[str],
    targets: Sequence[int],
    lengths: Sequence[int],
    *,
    max_length: int = 64,
    search: PromptSearch | None = None,
    log: ResultLog | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> PromptReachability:
    """Find for how many texts some prompt makes a given token the most likely next one.

    Args:
        backbone: causal, with lm_head.
        texts: what stands between prompt and target.
        targets: number of the token to reach after each text.
        lengths: as the other arguments, see `class_reachability`.
        max_length: longer texts are cut here.
        search: what is looked for, and how.
        log: where finished chunks are kept.
        on_chunk: called with (pairs done, pairs in all).

    Raises:
        ValueError: for a backbone without lm_head, targets of another number than the texts, and as
            `class_reachability`.
    """
    if backbone.kind != "causal" or backbone.lm_head is None:
        raise ValueError(
            f"backbone={backbone.name!r} ({backbone.kind}): is not causal, or has no lm_head; take a causal "
            "checkpoint."
        )
    if len(texts) != len(targets):
        raise ValueError(f"targets: are {len(targets)}; there are {len(texts)} texts.")
    rows = token_rows(backbone, Examples(tuple(texts), labels=tuple(targets)), max_length)
    return _reachability(
        backbone,
        lambda chosen: batch_of(backbone, [rows[i] for i in chosen]),
        lambda hidden, batch: backbone.vocabulary_logits(backbone.pool(hidden, batch)),
        targets,
        {"backbone": backbone.provenance, "rows": rows, "targets": list(targets)},
        lengths,
        search or PromptSearch(),
        log,
        on_chunk,
    )


def _reachability(
    backbone: Backbone,
    batch: Callable[[Sequence[int]], Batch],
    readout: Callable[[Tensor, Batch], Tensor],
    targets: Sequence[int],
    identity: dict,
    lengths: Sequence[int],
    search: PromptSearch,
    log: ResultLog | None,
    on_chunk: Callable[[int, int], None] | None,
) -> PromptReachability:
    if not targets:
        raise ValueError("pairs=(): give at least one.")
    if not lengths or min(lengths) < 0:
        raise ValueError(f"lengths={list(lengths)}: give at least one, none below 0.")
    began = time.perf_counter()
    how = asdict(search)
    asked = {"kind": how.pop("kind"), "margin": how.pop("margin"), "search": how}
    shortest: list[int | None] = [None] * len(targets)
    best, passes = [-math.inf] * len(targets), 0.0
    for length in sorted(set(lengths)):
        left = [i for i, found in enumerate(shortest) if found is None]
        for first in range(0, len(left), search.chunk):
            chosen = left[first : first + search.chunk]
            config = {**identity, **asked, "length": length, "chosen": chosen}
            known = log.result(config, _Chunk) if log else None
            if known is None:
                wanted = torch.tensor([targets[i] for i in chosen], device=backbone.device)
                found, _, spent = find_prompts(backbone, batch(chosen), readout, wanted, length, search)
                known = _Chunk(found.tolist(), spent)
                if log:
                    log.append(config, asdict(known))
            passes += known.passes
            for i, value in zip(chosen, known.margins, strict=True):
                best[i] = max(best[i], value)
                if value > search.margin:
                    shortest[i] = length
            if on_chunk:
                on_chunk(first + len(chosen), len(left))
    return PromptReachability(
        kind=search.kind,
        margin=search.margin,
        lengths=tuple(sorted(set(lengths))),
        shortest=shortest,
        margins=best,
        upper=NO_UPPER_BOUND,
        passes=passes,
        seconds=time.perf_counter() - began,
    )


def find_prompts(
    backbone: Backbone,
    batch: Batch,
    readout: Callable[[Tensor, Batch], Tensor],
    targets: Int[Tensor, " B"],
    length: int,
    search: PromptSearch,
) -> tuple[Float[Tensor, " B"], Tensor | None, float]:
    """Look for one prompt an example that makes its target the arg max by more than the margin.

    Args:
        backbone: frozen.
        batch: B texts.
        readout: (last hidden states, their batch) ↦ logits.
        targets: shape (B,).
        length: k.
        search: how; an example is left alone once it is above the margin.

    Returns:
        The largest margins z_y - max_{c≠y} z_c met, the prompts they were met with (`None` for k = 0), and
        the passes spent.
    """

    def margins(logits: Tensor, wanted: Tensor) -> Tensor:
        others = logits.scatter(1, wanted[:, None], -math.inf).amax(1)
        return logits.gather(1, wanted[:, None])[:, 0] - others

    if length == 0:
        with torch.no_grad():
            found = margins(readout(backbone.hidden_states(batch), batch), targets)
        return found, None, FORWARD * len(batch)
    best = torch.full((len(batch),), -math.inf, device=backbone.device, dtype=backbone.wide_dtype)
    kept, passes = torch.empty(0), 0.0
    for restart in range(search.restarts):
        start, radius = _start(backbone, length, search.kind, search.seed + restart)
        u = start.repeat(len(batch), *[1] * start.ndim)
        if restart == 0:
            kept = u.clone()
        optimizer = torch.optim.Adam([u], lr=search.rate * float(start.square().mean().sqrt()))
        for step in range(search.steps + 1):
            open_ = (best <= search.margin).nonzero().flatten()
            if not len(open_):
                break
            leaf = u[open_].requires_grad_(step < search.steps)
            part = batch.select(open_)
            logits = readout(_states(backbone, part, leaf, search.kind), part)
            found = margins(logits.detach(), targets[open_])
            better = found > best[open_]
            best[open_[better]], kept[open_[better]] = found[better], leaf.detach()[better]
            passes += FORWARD * len(open_)
            if step < search.steps:
                loss = CrossEntropy().total(logits, targets[open_])
                u.grad = torch.zeros_like(u)
                (u.grad[open_],) = torch.autograd.grad(loss, leaf)
                optimizer.step()
                u *= (radius / u.norm(dim=-1, keepdim=True)).clamp(max=1)
                passes += FORWARD * len(open_)  # back through the frozen net, activations only
    return best, kept, passes


def _start(backbone: Backbone, length: int, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return where a prompt starts, and the largest norm of each of its vectors."""
    if kind == "prompt":
        words: Any = backbone.model.get_input_embeddings()  # type: ignore[operator]
        longest = words(torch.arange(words.num_embeddings, device=backbone.device)).norm(dim=-1).max()
        return start_embeddings(backbone, start_tokens(backbone, length, seed=seed)), longest.detach()
    count = max(length, min(_CLOUD, backbone.max_length - 1))
    cloud = PrefixTuning(backbone, length=count, gate="none", seed=seed)
    pairs = cloud.keys_values(cloud.initial()).values()
    vectors = torch.stack([torch.stack(pair) for pair in pairs])  # blocks, key or value, heads, k, e
    return vectors[..., :length, :].clone(), vectors.norm(dim=-1, keepdim=True).amax(-2, keepdim=True)


def _states(backbone: Backbone, batch: Batch, u: Tensor, kind: str) -> Float[Tensor, "B T H"]:
    """Return the last hidden states of texts, each with a prompt (or prefix) of its own."""
    if kind == "prefix":
        attention = {t: with_prefix(u[:, t, 0], u[:, t, 1]) for t in range(u.shape[1])}
        return backbone.hidden_states(batch, Edit(attention=attention))
    length = u.shape[1]
    # Real tokens make room, and their embeddings are replaced: an edit's own prompt is one for all texts.
    edit = Edit(outputs={backbone.words: lambda _, own: torch.cat([u, own[:, length:]], 1)})
    hidden = backbone.hidden_states(backbone.prompted(batch, length), edit)
    return hidden[:, hidden.shape[1] - batch.final.mask.shape[1] :]


@dataclass(frozen=True, eq=False)
class PrefixBound:
    """What k prefix tokens of bounded norm can do to one output of one attention head.

    Attributes:
        output: shape (e,), o: the head's output without prefix, in float64.
        share: λ_max, the most attention that the prefix can take.
        radius: λ_max σ_max(W_v) M: the component orthogonal to o of an output is at most this long.
        rounding: error per unit roundoff: an output that the head computes in a type of unit u, and this
            bound in float64, are together off by less than u times this.
    """

    output: Float[Tensor, " e"]
    share: float
    radius: float
    rounding: float

    def ratio(self, target: Float[Tensor, " e"]) -> float:
        """Return ‖y_⊥‖ / radius, y_⊥ the component of a target orthogonal to o; no output has more than 1."""
        return self._across(target) / self.radius

    def unreachable(self, target: Float[Tensor, " e"]) -> bool:
        """Return whether the bound rules the target out, beyond what rounding may do; False says nothing.

        The target counts as computed in its own dtype, as the head would.
        """
        unit = torch.finfo(target.dtype).eps
        own = len(target) * float(target.double().norm())
        return self._across(target) > self.radius + unit * (self.rounding + own)

    def _across(self, target: Float[Tensor, " e"]) -> float:
        y, o = target.double(), self.output.double()
        if y.shape != o.shape or not y.isfinite().all():
            raise ValueError(f"target: allowed are {len(o)} finite numbers, its shape is {tuple(y.shape)}.")
        o = o / o.norm().clamp(min=torch.finfo(o.dtype).tiny)
        return float((y - (y @ o) * o).norm())


def prefix_reach_bound(
    query: Float[Tensor, " d"],
    keys: Float[Tensor, "n d"],
    values: Float[Tensor, "n e"],
    key_weight: Float[Tensor, "d h"],
    value_weight: Float[Tensor, "e h"],
    *,
    length: int,
    norm: float,
) -> PrefixBound:
    """Bound the outputs of one head in one layer over all prefixes of k tokens u_i with ‖u_i‖ <= M.

    The prefix has keys W_k u_i and values W_v u_i. With α = ‖W_kᵀ q‖ M/√d and g = Σ_j exp(q·k_j/√d) the
    prefix takes λ <= k e^α/(k e^α + g) of the attention, the output is (1 - λ) o + λ Σ_i w_i W_v u_i with
    Σ w_i = 1, so it lies within λ σ_max(W_v) M of (1 - λ) o (after Bhargava et al. 2023, theorem 1, whose
    k e^α/g is larger). It holds for one head whose query, keys and values do not depend on the prefix: for
    the first layer of a network, not for a stack.

    >>> zero, two = torch.zeros(2), torch.eye(2)
    >>> bound = prefix_reach_bound(zero, torch.ones(3, 2), torch.ones(3, 2), two, two, length=1, norm=2.0)
    >>> round(bound.share, 6), round(bound.radius, 6)  # q = 0 attends alike to 1 + 3 tokens
    (0.25, 0.5)

    Args:
        query: q.
        keys: k_j of the tokens that q sees.
        values: v_j.
        key_weight: W_k.
        value_weight: W_v.
        length: k.
        norm: M.

    Raises:
        ValueError: for a length below 1, a norm that is not positive and finite, or entries that are not
            finite.
    """
    check_number("length", length, whole=True, least=1)
    check_number("norm", norm, above=0)
    given = {"query": query, "keys": keys, "values": values}
    for name, part in (given | {"key_weight": key_weight, "value_weight": value_weight}).items():
        if not part.isfinite().all():
            raise ValueError(f"{name}: it has NaN or infinite entries.")
    q, K, V, Wk, Wv = (part.double() for part in (query, keys, values, key_weight, value_weight))
    root = math.sqrt(len(q))
    scores = K @ q / root
    alpha = float((Wk.T @ q).norm()) * norm / root
    share = float(torch.sigmoid(math.log(length) + alpha - scores.logsumexp(0)))
    radius = share * float(torch.linalg.matrix_norm(Wv, 2)) * norm
    # A sum of m products is off by m units of its terms, and with a score s its weight by s m; twice, for the
    # bound.
    terms = len(q) + Wk.shape[1] + len(K) + len(Wv) + length + 8
    largest = float(q.norm()) / root * max(float(K.norm(dim=1).max()), float(Wk.norm()) * norm)
    rounding = 2 * terms * (3 + 2 * largest) * max(float(V.norm(dim=1).max()), float(Wv.norm()) * norm)
    return PrefixBound(scores.softmax(0) @ V, share, radius, rounding)
