"""Policies by name, made from a contrast: which vectors, half-spaces and gains they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, CachedTexts, Edit
from deltatheory.control.feedback.controllers import held_directions, state_adjoints
from deltatheory.control.generation.contrast import Contrast, check_made_for, read_texts
from deltatheory.control.generation.intervention import LowRankIntervention
from deltatheory.control.generation.learning import learn
from deltatheory.control.generation.policies import (
    AddedDirection,
    CacheEdit,
    HalfSpaces,
    LayerPolicy,
    ScoreFeedback,
    StatePolicy,
    Tokens,
    ValueGuidance,
    check_tokens,
    check_where,
)
from deltatheory.control.generation.tuned import Prefix
from deltatheory.control.solvers.low_rank_riccati import low_rank_riccati
from deltatheory.deltas.prefix import PrefixTuning

__all__ = ["STATE_POLICIES", "check_state_policies", "half_spaces", "make_state_policy"]

_WIDTH = 1.0  # of the band of scores that "barrier" keeps, in gaps
_DECAY = 0.5  # of its barriers
_PID = {"proportional": 0.5, "integral": 0.05, "token_integral": 0.1, "derivative": 0.1}
_TEXTS, _LENGTH = 4, 16  # texts and tokens that blocks are linearized along
_BATCH = 16  # texts of a pass
_PRINCIPAL = 8  # nominal directions that LQR holds beside the gap
_CONTROL_WEIGHT = 1.0  # of LQR, beside 1 on each direction
_RANK, _TOKENS = 4, 8  # of a learned intervention; of a learned prefix
_FEATURES, _RIDGE, _FLOOR = 64, 1.0, 1e-6  # of a value function; the least spread of a coordinate


def _reader(gap: Float[Tensor, "n H"]) -> Float[Tensor, "n H"]:
    return gap / gap.square().sum(1, keepdim=True)


class _Plan:
    """What all policies are made of: the contrast at some layers, a strength in gaps, a rule for tokens."""

    def __init__(
        self,
        backbone: Backbone,
        found: Contrast,
        strength: float,
        layers: tuple[int, ...],
        tokens: Tokens,
        seed: int,
    ) -> None:
        self.backbone, self.found, self.strength, self.seed = backbone, found, strength, seed
        self.layers, self.rows = layers, list(layers)
        self.common = {"layers": layers, "tokens": tokens, "model": found.model}
        self.lower = found.lower[self.rows]
        self.gap = found.upper[self.rows] - self.lower

    def added(self, direction: Float[Tensor, "n H"]) -> AddedDirection:
        """Return s/n times a direction a layer: where the blocks pass shifts on as they are, s in all."""
        return AddedDirection(gain=self.strength / len(self.rows) * direction, **self.common)

    def target(self, reader: Float[Tensor, "n H"]) -> Float[Tensor, " n"]:
        """Return what a reader of scores finds at m₋ + s (m₊ - m₋)."""
        return (reader * (self.lower + self.strength * self.gap)).sum(1)


def _mean_difference(plan: _Plan) -> StatePolicy:
    return plan.added(plan.gap)


def _random_direction(plan: _Plan) -> StatePolicy:
    rng = np.random.default_rng(plan.seed)
    drawn = torch.from_numpy(rng.standard_normal(plan.gap.shape)).to(plan.gap)
    return plan.added(drawn * (plan.gap.norm(dim=1) / drawn.norm(dim=1))[:, None])


def _probe_direction(plan: _Plan) -> StatePolicy:
    """Move along w so far that the probe reads a gap more; inference-time intervention scales otherwise."""
    return plan.added(_reader(plan.found.probes[plan.rows]))


def _principal_direction(plan: _Plan) -> StatePolicy:
    """Take the first right singular vector of differences of pairs, as long as the gap and to its side."""
    states = plan.found.states[plan.rows]
    upper, lower = states[:, plan.found.target], states[:, ~plan.found.target]
    pairs = min(upper.shape[1], lower.shape[1])
    leading = torch.linalg.svd(upper[:, :pairs] - lower[:, :pairs], full_matrices=False)[2][:, 0]
    side = (leading * plan.gap).sum(1).sign() * plan.gap.norm(dim=1)
    return plan.added(leading * side[:, None])


def _liseco(plan: _Plan) -> StatePolicy:
    return half_spaces(
        [plan.found], [(plan.strength, None)], layers=plan.layers, tokens=plan.common["tokens"]
    )


def _barrier(plan: _Plan) -> StatePolicy:
    """Keep the score in the band [s, s + 1]: two half-spaces, approached by control barriers."""
    band = (plan.strength, plan.strength + _WIDTH)
    return half_spaces([plan.found], [band], layers=plan.layers, tokens=plan.common["tokens"], decay=_DECAY)


def _pid(plan: _Plan) -> StatePolicy:
    reader = _reader(plan.gap)
    return ScoreFeedback(direction=reader, target=plan.target(reader), gain=plan.gap, **_PID, **plan.common)


def _lqr(plan: _Plan) -> StatePolicy:
    """Feed back the score's error, as a share of the gap, by the Riccati gains of the blocks that follow.

    Blocks are linearized at the last tokens of texts, from the first of the layers to the last; held are the
    gap and, so that what is moved stays among the states there are, their leading principal directions.
    """
    first, last = plan.layers[0], plan.layers[-1]
    texts = sorted(plan.found.texts, key=len)[-_TEXTS:]
    batch = read_texts(plan.backbone, texts, min(_LENGTH, plan.backbone.max_length))
    adjoints = state_adjoints(plan.backbone, Edit(), batch, "last")[first : last + 1]
    gaps = plan.found.upper - plan.found.lower
    blocks = slice(first, last + 1)
    held = held_directions(list(gaps[blocks, :, None]), plan.found.states[blocks], _PRINCIPAL)
    solution = low_rank_riccati(adjoints, [held[0][:, :0], *held], control_weight=_CONTROL_WEIGHT)
    if solution.value is None:
        raise ValueError(f"lqr: {solution.status}; {solution.remedy}.")
    pairs = zip(plan.layers, plan.gap, strict=True)
    gains = torch.stack([-solution.value.after(t - first, gap) for t, gap in pairs])
    reader = _reader(plan.gap)
    return ScoreFeedback(direction=reader, target=plan.target(reader), gain=gains, **plan.common)


def _value(plan: _Plan) -> StatePolicy:
    """Climb to the score s: V is a ridge regression of random features on 0 and 1, the two kinds of text."""
    rng, found = np.random.default_rng(plan.seed), plan.found
    y = found.target.double()
    parts: dict[str, list[Tensor]] = {name: [] for name in ("direction", "offset", "weight", "base")}
    for states in found.states[plan.rows].double():
        middle, spread = states.mean(0), states.std(0)
        spread = spread + _FLOOR * spread.mean()
        drawn = rng.standard_normal((_FEATURES, states.shape[1])) / states.shape[1] ** 0.5
        direction = torch.from_numpy(drawn).to(states) / spread
        offset = torch.from_numpy(rng.uniform(-1, 1, _FEATURES)).to(states) - direction @ middle
        features = (states @ direction.T + offset).relu()
        centred = features - features.mean(0)
        gram = centred.T @ centred
        ridge = _RIDGE * float(gram.diagonal().sum()) / len(y) * torch.eye(_FEATURES).to(gram)
        weight = torch.linalg.solve(gram + ridge, centred.T @ (y - y.mean()))
        for name, part in (("direction", direction), ("offset", offset), ("weight", weight)):
            parts[name].append(part)
        parts["base"].append(y.mean() - features.mean(0) @ weight)
    made = {name: torch.stack(part).to(plan.gap) for name, part in parts.items()}
    target = torch.full_like(made["base"], plan.strength)
    return ValueGuidance(target=target, **made, **plan.common)


@torch.no_grad()
def _cache_edit(plan: _Plan) -> LayerPolicy:
    """Add s times the difference of the mean keys and values of the texts' last tokens."""
    found, backbone = plan.found, plan.backbone
    check_where(found.model, plan.layers, "answer")
    sums: dict[tuple[int, int, bool], Tensor] = {}
    longest = min(64, backbone.max_length)
    for target in (True, False):
        texts = [text for text, on in zip(found.texts, found.target.tolist(), strict=True) if on == target]
        for start in range(0, len(texts), _BATCH):
            batch = backbone.encode(texts[start : start + _BATCH], max_length=longest)
            read = CachedTexts(backbone, batch, Edit())
            for t in plan.layers:
                for part, kept in enumerate(read.newest(t)):
                    place = (t, part, target)
                    sums[place] = sums.get(place, 0) + kept.sum(0) / len(texts)
    key, value = (
        plan.strength * torch.stack([sums[t, part, True] - sums[t, part, False] for t in plan.layers])
        for part in (0, 1)
    )
    return CacheEdit(key=key, value=value, layers=plan.layers, model=found.model)


def _reft(plan: _Plan) -> LayerPolicy:
    """Learn R, W and b from R = W at random and b = 0, which leave a state alone, and scale what is added."""
    states = plan.found.states[plan.rows]
    rank = min(_RANK, states.shape[2])
    drawn = np.random.default_rng(plan.seed).standard_normal((len(plan.rows), states.shape[2], rank))
    rotation = torch.linalg.qr(torch.from_numpy(drawn).to(states)).Q.mT
    read = states @ rotation.mT
    start = {"direction": rotation, "source": rotation, "offset": torch.zeros_like(rotation[:, :, 0])}
    small = 1 / states.shape[2]  # a step of all entries moves what is read by a share of its size
    scale = {"direction": small, "source": small, "offset": float(read.square().mean().sqrt())}
    learned = _learned(plan, "reft", start, scale, partial(_intervention, plan, 1.0))
    return _intervention(plan, plan.strength, learned)


def _intervention(plan: _Plan, strength: float, leaves: Mapping[str, Tensor]) -> LowRankIntervention:
    rotation = torch.linalg.qr(leaves["direction"].mT).Q.mT
    source = rotation + strength * (leaves["source"] - rotation)
    offset = strength * leaves["offset"]
    return LowRankIntervention(direction=rotation, source=source, offset=offset, **plan.common)


def _prefix(plan: _Plan) -> LayerPolicy:
    """Learn keys and values, from those of random words, and go on along what has been learned."""
    about = {"length": _TOKENS, "gate": "none", "blocks": plan.rows, "attention": "self", "seed": plan.seed}
    prefix = PrefixTuning(plan.backbone, **about)
    pairs = prefix.keys_values(prefix.initial())
    if len({key.shape for key, _ in pairs.values()}) > 1:
        raise ValueError(f"layers={plan.layers}: their keys have several shapes; give layers of one.")
    start = {n: torch.stack([pairs[t][i] for t in plan.rows]) for i, n in enumerate(("key", "value"))}
    scale = {name: float(x.square().mean().sqrt()) for name, x in start.items()}
    learned = _learned(plan, "prefix", start, scale, partial(_before_all, plan))
    return _before_all(plan, {n: x + plan.strength * (learned[n] - x) for n, x in start.items()})


def _before_all(plan: _Plan, leaves: Mapping[str, Tensor]) -> Prefix:
    key, value = leaves["key"], leaves["value"]
    return Prefix(key=key, value=value, layers=plan.layers, model=plan.found.model)


# Of a contrast that still lives, so that all strengths share what was learned of it.
_KNOWN: WeakKeyDictionary[Contrast, dict[tuple, dict[str, Tensor]]] = WeakKeyDictionary()


def _learned(
    plan: _Plan,
    name: str,
    start: dict[str, Tensor],
    scale: dict[str, float],
    made: Callable[[Mapping[str, Tensor]], LayerPolicy],
) -> dict[str, Tensor]:
    known = _KNOWN.setdefault(plan.found, {})
    place = (name, plan.layers, plan.common["tokens"], plan.seed)
    if place not in known:
        known[place] = learn(plan.backbone, plan.found, start, scale, made, plan.seed)
    return known[place]


def half_spaces(
    contrasts: Sequence[Contrast],
    bands: Sequence[tuple[float | None, float | None]],
    *,
    layers: Sequence[int],
    tokens: Tokens = "last",
    decay: float = 1.0,
) -> HalfSpaces:
    """Return the policy that keeps the probes' scores of one contrast or several in bands.

    Args:
        contrasts: of one backbone.
        bands: for each, the least and the largest score in gaps; `None` where there is no such end.
        layers: where it acts.
        tokens: for which tokens.
        decay: of the barriers; 1 keeps every state in all half-spaces.

    Raises:
        ValueError: for contrasts of several models, probes that do not separate, no half-space, or
            half-spaces that have no point in common.
    """
    if len(contrasts) != len(bands) or not contrasts:
        raise ValueError(f"bands: has {len(bands)}; {len(contrasts)} contrasts need as many, at least one.")
    normals, bounds, rows = [], [], list(layers)
    for found, band in zip(contrasts, bands, strict=True):
        if found.model != contrasts[0].model:
            raise ValueError(f"contrasts: are of {contrasts[0].model['name']!r} and {found.model['name']!r}.")
        found.check_separates(rows)
        probe, upper, lower = (one[rows] for one in (found.probes, found.upper, found.lower))
        for end, side in zip(band, (1, -1), strict=True):
            if end is not None:
                check_number("strength", end)
                normals.append(side * probe)
                bounds.append(side * (probe * (lower + end * (upper - lower))).sum(1))
    check_where(contrasts[0].model, rows, tokens)
    if not normals:
        raise ValueError(f"bands={list(bands)}: have no end; give a least or a largest score.")
    return HalfSpaces(
        direction=torch.stack(normals, 1),
        bound=torch.stack(bounds, 1),
        decay=decay,
        layers=tuple(layers),
        tokens=tokens,
        model=contrasts[0].model,
    )


STATE_POLICIES: dict[str, Callable[[_Plan], LayerPolicy]] = {
    "mean-difference": _mean_difference,
    "probe-direction": _probe_direction,
    "principal-direction": _principal_direction,
    "random-direction": _random_direction,
    "liseco": _liseco,
    "barrier": _barrier,
    "pid": _pid,
    "lqr": _lqr,
    "value": _value,
    "cache-edit": _cache_edit,
    "reft": _reft,
    "prefix": _prefix,
}


def check_state_policies(names: Sequence[str]) -> None:
    """Refuse a name that is no policy's, before anything is run.

    Raises:
        ValueError: for such a name; it says which there are.
    """
    for name in names:
        if name not in STATE_POLICIES:
            raise ValueError(f"policy={name!r}: allowed are {', '.join(STATE_POLICIES)}.")


def make_state_policy(
    name: str,
    backbone: Backbone,
    found: Contrast,
    strength: int | float = 1.0,
    *,
    layers: Sequence[int] | None = None,
    tokens: Tokens = "last",
    seed: int = 0,
) -> LayerPolicy:
    """Return a policy by name.

    Args:
        name: a key of `STATE_POLICIES`.
        backbone: that the contrast was read from.
        found: the contrast.
        strength: s. A fixed direction moves a state by s gaps in all, an edit of the cache keys and values by
            s of theirs, feedback's setpoint is the score s, and a half-space begins there: 0 is the mean of
            the other texts, 1 that of the target texts. What is learned goes s times as far.
        layers: numbers of blocks; `Contrast.default_layers` if `None`.
        tokens: which tokens are moved.
        seed: of the random direction, and of what is learned.

    Raises:
        ValueError: for an unknown name, another backbone, probes that do not separate at one of the layers,
            or numbers out of range.
    """
    check_state_policies([name])
    check_number("strength", strength)
    check_tokens(tokens)
    check_number("seed", seed, whole=True, least=0)
    chosen = found.default_layers(tokens) if layers is None else tuple(layers)
    check_where(found.model, chosen, tokens)
    check_made_for(found.model, backbone)
    found.check_separates(chosen)
    return STATE_POLICIES[name](_Plan(backbone, found, float(strength), chosen, tokens, seed))
