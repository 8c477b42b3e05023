from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny, tiny_model
from tiny_problems import toy_problem

from deltatheory.backbones.batch import pool
from deltatheory.control.feedback.controllers import (
    PID,
    Controller,
    LQRFeedback,
    class_directions,
    held_directions,
    lqr_gains,
    prefix_values,
    shift_adjoints,
    steered,
)
from deltatheory.control.feedback.disturbances import Disturbance, Substitutions, disturbed_batches
from deltatheory.control.feedback.hooks import spread, watching
from deltatheory.control.feedback.setpoints import (
    ClassSetpoint,
    NominalStates,
    PopulationSetpoint,
    Setpoint,
    SubspaceSetpoint,
    make_setpoint,
    nominal_states,
)
from deltatheory.deltas import make_delta

TEXTS = ["a b c d", "e f", "g h i j k l", "m n o"]


def nominal(blocks=2, n=24, width=16, classes=3, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = 3 * rng.standard_normal((blocks, classes, width))
    states = centres[:, labels] + spread * rng.standard_normal((blocks, n, width))
    return NominalStates(torch.from_numpy(states), torch.from_numpy(labels), "mean")


class Constant(Setpoint):
    def __init__(self, errors):
        self.errors = errors

    def error(self, t, z, memory):
        return self.errors[t].expand_as(z)


class Push(Controller):
    """u_t = the same vector at one block, 0 elsewhere."""

    def __init__(self, at, u):
        self.setpoint, self.at, self.u = Constant([torch.zeros_like(u)] * 9), at, u

    def control(self, t, errors):
        return (self.u if t == self.at else torch.zeros_like(self.u)).expand_as(errors[-1])


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_what_is_spread_moves_the_measured_state_by_as_much(pooling):
    torch.manual_seed(0)
    x, u = torch.randn(3, 5, 4).double(), torch.randn(3, 4).double()
    mask = (torch.arange(5) < torch.tensor([[5], [2], [4]])).double()
    before = x.clone()
    moved = pool(spread(x, u, mask, pooling), mask, pooling) - pool(x, mask, pooling)
    torch.testing.assert_close(moved, u)
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    rows = [x[i, :n] for i, n in enumerate((5, 2, 4))]
    read = {"mean": lambda row: row.mean(0), "last": lambda row: row[-1], "cls": lambda row: row[0]}
    expected = torch.stack([read[pooling](row) for row in rows])
    torch.testing.assert_close(pool(x, mask, pooling), expected)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_states_are_those_of_the_backbone_on_wrapped_and_plain_models(family):
    backbone = tiny(family, dtype=torch.float64)
    batch = backbone.encode(TEXTS)
    pooling = "mean" if backbone.kind == "encoder" else "last"
    x, expected = backbone.embed(batch), []
    for t in range(2):
        x = backbone.step(t, x, batch)
        expected.append(pool(x, batch.mask, pooling))
    plain = tiny_model(family).double().eval()
    base = plain.base_model
    layers = base.encoder.layer if family == "bert" else getattr(base, "h", None) or base.layers
    for model, blocks, inputs in (
        (backbone.model, backbone.layers, batch.inputs()),
        (plain, layers, {"input_ids": batch.input_ids, "attention_mask": batch.mask.long()}),
    ):
        seen = []
        with (
            torch.no_grad(),
            watching(model, blocks, lambda _, x, m, seen=seen: seen.append(pool(x, m, pooling))),
        ):
            model(**inputs)
        for z, right in zip(seen, expected, strict=True):
            # Llama's code computes norms and rotations in float32.
            torch.testing.assert_close(z, right, atol=1e-5 if family == "llama" else 1e-10, rtol=0)


def last_states(model, run, **inputs):
    """The state behind the last block that "last" reads, pass by pass."""
    seen, base = [], model.base_model
    blocks = getattr(base, "h", None) or base.layers

    def act(t, x, mask):
        if t == 1:
            seen.append(pool(x, mask, "last"))

    with torch.no_grad(), watching(model, blocks, act):
        run(**{name: torch.tensor(value) for name, value in inputs.items()})
    return seen


SHORT, LONG = [4, 5, 6], [7, 8, 9, 10, 11]
PADDED = {
    "right": ([[*SHORT, 0, 0], LONG], [[1, 1, 1, 0, 0], [1] * 5]),
    "left": ([[0, 0, *SHORT], LONG], [[0, 0, 1, 1, 1], [1] * 5]),
}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("side", PADDED)
def test_the_last_token_is_that_of_the_mask_whatever_side_is_padded(family, side):
    model = tiny_model(family).double().eval()
    ids, mask = PADDED[side]
    places = (np.cumsum(mask, 1) - 1).clip(0).tolist()
    (padded,) = last_states(model, model, input_ids=ids, attention_mask=mask, position_ids=places)
    for text, state in zip((SHORT, LONG), padded, strict=True):
        (alone,) = last_states(model, model, input_ids=[text], attention_mask=[[1] * len(text)])
        torch.testing.assert_close(state, alone[0], atol=1e-5, rtol=0)
    if family == "llama":  # whose second argument the mask is
        by_name = last_states(model, model, input_ids=ids, attention_mask=mask)[0]
        by_place = last_states(model, lambda ids, mask: model(ids, mask), ids=ids, mask=mask)[0]
        torch.testing.assert_close(by_place, by_name, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("cache", ["none", "dynamic", "static"])
def test_each_pass_of_padded_generation_reads_the_newest_token(family, cache):
    model = tiny_model(family).double().eval()
    ids, mask = PADDED["left"]
    how = {"use_cache": False} if cache == "none" else {"cache_implementation": cache}
    texts = []

    def run(**inputs):
        options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "disable_compile": True}
        texts.extend(model.generate(**inputs, **options, **how)[:, :-1].tolist())

    seen = last_states(model, run, input_ids=ids, attention_mask=mask)
    assert len(seen) == 3
    for k, states in enumerate(seen):
        for text, state, padding in zip(texts, states, (2, 0), strict=True):
            known = text[padding : 5 + k]
            (alone,) = last_states(model, model, input_ids=[known], attention_mask=[[1] * len(known)])
            torch.testing.assert_close(state, alone[0], atol=1e-5, rtol=0)


def test_control_moves_the_newest_token_of_padded_generation():
    model, u = tiny_model("llama").double().eval(), torch.linspace(-1, 1, 16).double()
    ids, mask = (torch.tensor(rows) for rows in PADDED["left"])
    head, alone = model.lm_head, torch.tensor([SHORT])
    with torch.no_grad(), steered(model, model.base_model.layers, Push(1, u), "last"):
        moved = model(input_ids=ids, attention_mask=mask).logits[0, -1]
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=2, do_sample=False)
    hidden = model.base_model.layers[1].register_forward_hook(lambda m, a, out: states.append(out))
    states: list = []
    with torch.no_grad():
        model(input_ids=alone, attention_mask=torch.ones_like(alone))
    hidden.remove()
    state = states[0][0] if isinstance(states[0], tuple) else states[0]
    expected = head(model.base_model.norm(state[0, -1] + u))
    torch.testing.assert_close(moved, expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_text_that_is_steered_token_by_token_is_the_same_with_a_cache_and_without(family):
    model = tiny_model(family).double().eval()
    blocks = model.base_model.h if family == "gpt2" else model.base_model.layers
    ids, mask = (torch.tensor(rows) for rows in PADDED["left"])
    states = torch.randn(2, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    setpoint = ClassSetpoint(NominalStates(states, torch.arange(12) % 2, "last"))

    def generated(gain, ids, mask, **options):
        how = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, **options}
        with torch.no_grad(), steered(model, blocks, PID(setpoint, gain), "each"):
            return model.generate(input_ids=ids, attention_mask=mask, **how)[:, ids.shape[1] :].tolist()

    cached = generated(0.5, ids, mask)
    assert generated(0.5, ids, mask, use_cache=False) == cached
    assert generated(0.0, ids, mask) != cached
    alone = torch.tensor([SHORT])
    assert generated(0.5, alone, torch.ones_like(alone)) == cached[:1]


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_hooks_are_removed_at_exit_and_after_an_error(family):
    backbone = tiny(family)
    batch, before = backbone.encode(TEXTS), backbone.pooled(backbone.encode(TEXTS))
    controller = Push(0, torch.linspace(-1, 1, 16))
    with steered(backbone.model, backbone.layers, controller, "mean") as meter:
        assert (backbone.pooled(batch) - before).abs().max() > 1e-3
    assert meter.texts == 4
    assert meter.energy == pytest.approx(float(torch.linspace(-1, 1, 16).square().sum()))
    with pytest.raises(ZeroDivisionError), steered(backbone.model, backbone.layers, controller, "mean"):
        raise ZeroDivisionError
    assert hook_count(backbone.model) == 0
    torch.testing.assert_close(backbone.pooled(batch), before, rtol=0, atol=0)


def test_a_push_behind_the_last_block_moves_the_pooled_output_by_as_much():
    backbone = tiny("bert", dtype=torch.float64)
    batch, u = backbone.encode(TEXTS), torch.linspace(-1, 1, 16).double()
    with steered(backbone.model, backbone.layers, Push(1, u), "mean"):
        moved = backbone.pooled(batch)
    torch.testing.assert_close(moved, backbone.pooled(batch) + u)


def test_pid_is_its_formula():
    torch.manual_seed(0)
    errors = list(torch.randn(4, 3, 5).double())
    setpoint = Constant([])
    u = PID(setpoint, 0.5, 0.2, 0.1).control(3, errors)
    e = [x.numpy() for x in errors]
    expected = -(0.5 * e[3] + 0.2 * (e[0] + e[1] + e[2] + e[3]) + 0.1 * (e[3] - e[2]))
    np.testing.assert_allclose(u.numpy(), expected)
    no_integral = PID(setpoint, 0.5, 0.0, 0.1).control(3, errors)
    assert (u - no_integral).abs().max() > 0.05
    first = PID(setpoint, 0.5, 0.2, 0.1).control(0, errors[:1])
    np.testing.assert_allclose(first.numpy(), -0.7 * e[0])


@pytest.mark.parametrize("kind", ["population", "subspace"])
def test_proportional_gain_1_puts_every_state_on_its_setpoint(kind):
    backbone = tiny("bert", dtype=torch.float64)
    clean = nominal()
    setpoint = PopulationSetpoint(clean) if kind == "population" else SubspaceSetpoint(clean, rank=4)
    batch, seen = backbone.encode(TEXTS), []
    with (
        steered(backbone.model, backbone.layers, PID(setpoint, 1.0), "mean"),
        watching(backbone.model, backbone.layers, lambda _, x, m: seen.append(pool(x, m, "mean"))),
    ):
        backbone.pooled(batch)
    for t, z in enumerate(seen):
        if kind == "population":
            torch.testing.assert_close(z.mean(0), clean.mean[t])
        else:
            centred = (clean.states[t] - clean.mean[t]).numpy()
            basis = np.linalg.svd(centred, full_matrices=False)[2][:4]
            off = (z - clean.mean[t]).numpy()
            np.testing.assert_allclose(off - off @ basis.T @ basis, 0, atol=1e-10)


def test_the_class_setpoint_is_the_posterior_mean_of_linear_discriminant_analysis():
    clean = nominal(spread=3.0)
    setpoint = ClassSetpoint(clean, shrinkage=0.5, temperature=20.0)
    z, y = clean.states[:, :6] + 0.3, clean.labels.numpy()
    total, memory = 0.0, []
    for t in range(2):
        X = clean.states[t].numpy()
        means = np.stack([X[y == c].mean(0) for c in range(3)])
        S = (X - means[y]).T @ (X - means[y]) / len(X)
        S = 0.5 * S + 0.5 * np.trace(S) / 16 * np.eye(16)
        off = z[t].numpy()[:, None] - means
        log = -np.einsum("ncd,de,nce->nc", off, np.linalg.inv(S), off) / 2 / 20.0
        total = total + log
        weights = np.exp(total / (t + 1) - (total / (t + 1)).max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        assert ((weights > 0.05) & (weights < 0.95)).any()
        errors = setpoint.error(t, z[t], memory).numpy()
        np.testing.assert_allclose(errors, z[t].numpy() - weights @ means, atol=1e-9)
    forgetful = setpoint.error(1, z[1], []).numpy()
    assert np.abs(forgetful - errors).max() > 1e-2


def test_a_recentred_class_setpoint_does_not_follow_a_common_shift():
    clean = nominal()
    z = clean.states[0]
    shift = clean.class_means[0, 1] - clean.class_means[0, 0]
    blind, recentred = ClassSetpoint(clean), ClassSetpoint(clean, recentred=True)

    def target(setpoint, z):
        return z - setpoint.error(0, z, [])

    torch.testing.assert_close(target(recentred, z + shift), target(recentred, z))
    assert (target(blind, z + shift) - target(blind, z)).abs().max() > 1


def test_a_rehearsed_class_setpoint_knows_the_disturbance_and_keeps_the_nominal_means():
    """What shifts all classes alike tells none of them apart once it was seen; targets stay nominal."""
    clean = nominal(spread=3.0)
    shift = 4.0 * torch.ones(16).double()
    again = NominalStates(
        clean.states, clean.labels, clean.pooling, clean.states + shift, clean.labels.clone()
    )
    setpoint = ClassSetpoint(again, shrinkage=1e-6, temperature=1.0, rehearsed=True)
    X = np.concatenate([clean.states[0].numpy(), clean.states[0].numpy() + 4.0])
    y = np.tile(clean.labels.numpy(), 2)
    means = np.stack([X[y == c].mean(0) for c in range(3)])
    S = (X - means[y]).T @ (X - means[y]) / len(X)
    S = (1 - 1e-6) * S + 1e-6 * np.trace(S) / 16 * np.eye(16)
    log = -np.einsum("ncd,de,nce->nc", off := X[:, None] - means, np.linalg.inv(S), off) / 2
    weights = np.exp(log - log.max(1, keepdims=True))
    expected = X - (weights / weights.sum(1, keepdims=True)) @ clean.class_means[0].numpy()
    found = setpoint.error(0, torch.from_numpy(X), [])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="setpoint='rehearsed-class': nothing was rehearsed"):
        make_setpoint("rehearsed-class", clean)


def test_setpoints_by_name_and_their_errors():
    clean = nominal()
    assert make_setpoint("recentred-class", clean).recentred
    own = SubspaceSetpoint(clean, 2)
    assert make_setpoint(own, clean) is own
    with pytest.raises(ValueError, match="setpoint='mean': allowed are population"):
        make_setpoint("mean", clean)
    with pytest.raises(ValueError, match="rank=0"):
        SubspaceSetpoint(clean, 0)
    with pytest.raises(ValueError, match="temperature=0"):
        ClassSetpoint(clean, temperature=0.0)


def test_nominal_states_are_those_of_texts_that_are_right():
    problem = toy_problem("prefix", length=2, gate="values", dtype=torch.float64, head="prototypes")
    delta = 0.3 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(1)).double()
    found = nominal_states(problem, delta, batch_size=7)
    right = problem.predict(delta, problem.train).argmax(1) == problem.train.labels
    assert 0 < right.sum() < len(right)
    torch.testing.assert_close(found.labels, problem.train.labels[right])
    batch, _ = problem.batch(problem.train, right.nonzero().flatten().tolist())
    pooled = problem.backbone.pooled(batch, problem.delta.edit(delta))  # bert: the last state is the output
    torch.testing.assert_close(found.states[-1], pooled)
    torch.testing.assert_close(found.class_means[-1, 0], pooled[found.labels == 0].mean(0))
    with pytest.raises(ValueError, match="examples=1"):
        nominal_states(problem, delta, examples=1)


def test_rehearsed_states_are_those_under_the_disturbances():
    problem = toy_problem("prefix", length=2, gate="values", dtype=torch.float64, head="prototypes")
    delta = 0.05 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(1)).double()
    own = problem.train.subset(range(10))
    found = nominal_states(problem, delta, examples=10, rehearsed=(Disturbance(), Substitutions(rate=1.0)))
    assert found.rehearsed.shape[1] == 20
    for k, disturbance in enumerate((Disturbance(), Substitutions(rate=1.0))):
        ((batch, labels),) = disturbed_batches(problem, own, disturbance, 32)
        pooled = problem.backbone.pooled(batch, problem.delta.edit(delta))
        torch.testing.assert_close(found.rehearsed[-1, 10 * k : 10 * (k + 1)], pooled)
        assert found.rehearsed_labels[10 * k : 10 * (k + 1)].equal(labels)
    apart = found.rehearsed[-1, :10] - found.rehearsed[-1, 10:]
    assert float(apart.abs().max()) > 0.1
    plain = nominal_states(problem, delta, examples=10)
    torch.testing.assert_close(plain.states, found.states)
    assert plain.rehearsed is None


@pytest.mark.parametrize(
    ("family", "delta"), [("bert", "prefix"), ("gpt2", "prefix"), ("bert", "lora"), ("gpt2", "prompt")]
)
def test_shift_adjoints_against_finite_differences(family, delta):
    problem = toy_problem(delta, family=family, dtype=torch.float64)
    pooling = "mean" if family == "bert" else "last"
    at = 0.1 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(0)).double()
    batch, _ = problem.batch(problem.train, range(4))
    adjoints = shift_adjoints(problem, at, batch, pooling)
    backbone, torch_rng = problem.backbone, torch.Generator().manual_seed(3)
    v, w = (torch.randn(16, generator=torch_rng).double() for _ in range(2))
    for t, adjoint in enumerate(adjoints):
        outputs = []
        for step in (-1e-5, 1e-5):
            # A push before block t: at the embedding for the first, else behind block t - 1.
            seen = []

            def before(_module, args, step=step):
                m = real(args[0])
                return (spread(args[0], (step * v).expand(len(m), -1), m, pooling), *args[1:])

            def real(x):
                prompt = x.shape[1] - batch.mask.shape[1]
                return torch.nn.functional.pad(batch.mask, (prompt, 0), value=1.0)

            handle = backbone.layers[t].register_forward_pre_hook(before)
            with (
                torch.no_grad(),
                watching(
                    backbone.model,
                    backbone.layers,
                    lambda _, x, m, seen=seen: seen.append(pool(x, m, pooling).mean(0)),
                ),
            ):
                problem.logits(at, batch)
            handle.remove()
            outputs.append(seen[t])
        difference = (outputs[1] - outputs[0]) / 2e-5
        assert float(w @ difference) == pytest.approx(float(adjoint(w) @ v), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("principal", [0, 3])
def test_lqr_gains_of_a_network_are_those_of_the_dense_recursion(principal):
    problem = toy_problem("prefix", length=2, gate="values", dtype=torch.float64, head="prototypes")
    delta = 0.3 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(1)).double()
    clean = nominal_states(problem, delta)
    solution = lqr_gains(problem, delta, clean, control_weight=0.5, principal=principal, texts=8)
    batch, _ = problem.batch(problem.train, range(8))
    eye = torch.eye(16).double()
    A = [torch.stack([a(w) for w in eye]).numpy() for a in shift_adjoints(problem, delta, batch, "mean")]
    classes = class_directions(clean)
    V = [x.numpy() for x in held_directions(classes, clean.states, principal)]
    assert [v.shape for v in V] == [(16, 1 + principal)] * 2
    for v, own, x in zip(V, classes, clean.states.numpy(), strict=True):
        np.testing.assert_allclose(v.T @ v, np.eye(1 + principal), atol=1e-12)
        leading = np.linalg.svd(x - x.mean(0))[2][:principal].T
        for part in (own.numpy(), leading):
            np.testing.assert_allclose(v @ (v.T @ part), part, atol=1e-12)
    S = V[1] @ V[1].T
    z = np.linspace(-1, 1, 16)
    controller = LQRFeedback(PopulationSetpoint(clean), solution.value)
    for t in (1, 0):
        expected = -np.linalg.solve(S + 0.5 * np.eye(16), S @ z)
        u = controller.control(t, [torch.from_numpy(z)[None]])
        np.testing.assert_allclose(u[0].numpy(), expected, atol=1e-12)
        if t:
            S = V[0] @ V[0].T + A[1].T @ (S - S @ np.linalg.solve(S + 0.5 * np.eye(16), S)) @ A[1]
    products = 3 * (1 + principal)  # k T (T + 1)/2
    assert solution.details["products"] == products
    assert solution.passes == pytest.approx(2 * 8 + products * 8 / 2)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_constant_correction_is_a_change_of_the_prefix_values(family):
    backbone = tiny(family, dtype=torch.float64)
    prefix = make_delta("prefix", backbone, length=3, gate="values")
    generator = torch.Generator().manual_seed(0)
    delta = 0.2 * torch.randn(prefix.size, generator=generator).double()
    shifts = {t: torch.randn(16, generator=generator).double() for t in range(2)}
    batch = backbone.encode(TEXTS)
    shipped = backbone.hidden_states(batch, prefix.edit(delta + prefix_values(prefix, shifts)))
    handles = [
        backbone.model.get_submodule(backbone.module_name(t, "attention_output")).register_forward_hook(
            lambda _m, _a, y, s=s: y + s
        )
        for t, s in shifts.items()
    ]
    steered_states = backbone.hidden_states(batch, prefix.edit(delta))
    for handle in handles:
        handle.remove()
    real = batch.mask.bool()
    torch.testing.assert_close(shipped[real], steered_states[real], atol=1e-9, rtol=0)
    assert (backbone.hidden_states(batch, prefix.edit(delta)) - shipped)[real].abs().max() > 0.1


def test_only_a_prefix_of_values_takes_corrections():
    backbone = tiny("bert")
    with pytest.raises(ValueError, match="gate='values'"):
        prefix_values(make_delta("prefix", backbone, length=2), {0: torch.ones(16)})
    with pytest.raises(ValueError, match="shifts has block 5"):
        prefix_values(make_delta("prefix", backbone, length=2, gate="values"), {5: torch.ones(16)})
