"""Every delta on encoder-decoders: its laws, its kernel, and that it reaches all three attentions."""

from __future__ import annotations

import pytest
import torch
from delta_cases import CASES, FIRST
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task
from transformers import AutoModelForSequenceClassification

from deltatheory import autodiff
from deltatheory.backbones import wrap_model
from deltatheory.deltas import make_delta
from deltatheory.linearization.factors import places_of, tangent_kernels
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import ClassificationProblem

# Two blocks where there is something to share, and one elsewhere.
SIZES = {
    "t5": {"num_layers": 2, "num_decoder_layers": 1},
    "bart": {"encoder_layers": 1, "decoder_layers": 1},
}
NOT_THERE = {
    ("ladder", "t5"): "'tiny-t5' is an encoder-decoder",
    ("ladder", "bart"): "'tiny-bart' is an encoder-decoder",
    ("bitfit", "t5"): "has no bias",
    ("modules", "bart"): "matches none",  # a second block
}
FEW = {"train": 2, "test": 0, "sketch": 1 << 30}


def problem_of(name, family, options):
    backbone = tiny(family, dtype=torch.float64, **SIZES[family])
    delta = make_delta(name, backbone, **options)
    return ClassificationProblem(backbone, toy_task(train=4, test=2), delta, "verbalizer", check=False)


# BART has every delta; T5 one of each way to act.
ON_T5 = ["full", "lora", "prefix", "bitfit", "adapter", "ladder"]
RAW = "prefix length=2 gate=none shift=True"


@pytest.mark.parametrize(
    ("case", "family"),
    [*((case, "bart") for case in (*FIRST, RAW)), *((case, "t5") for case in (*ON_T5, RAW))],
)
def test_every_delta_keeps_its_laws(case, family):
    name, options = CASES[case]
    if (case, family) in NOT_THERE:
        with pytest.raises(ValueError, match=NOT_THERE[case, family]):
            problem_of(name, family, options)
        return
    problem = problem_of(name, family, options)
    delta, zero = problem.delta, problem.delta.initial()
    batch, labels = problem.batch(problem.train, range(3))
    frozen = problem.head(problem.backbone.pooled(batch))
    assert torch.equal(problem.logits(zero, batch), frozen) == delta.exact_zero
    point = 0.1 * torch.randn(delta.size, generator=torch.Generator().manual_seed(0)).to(zero)
    assert (problem.logits(point, batch) - problem.logits(zero, batch)).abs().max() > 1e-3

    _, _, gradient = problem.loss_and_gradient(point, batch, labels)
    problem.restore()
    v, h = gradient / gradient.norm(), 1e-5
    there, back = (problem.loss(point + s * h * v, batch, labels) for s in (1, -1))
    assert float(there - back) / (2 * h) == pytest.approx(float(gradient.norm()), rel=1e-5)

    if places_of(problem, delta) is not None:
        rows = tangent_rows(problem, outputs="margin", **FEW).kernel()
        (found,) = tangent_kernels(problem, [delta], outputs="margin", **FEW)
        assert float((found.kernel() - rows).norm() / rows.norm()) < 1e-5


@pytest.mark.parametrize("family", SIZES)
def test_the_kernel_of_words_that_both_stacks_read_is_that_of_the_rows(family):
    """One table is two modules here, BART's positions are found by the module: both were left to rows."""
    model = tiny_model(family, AutoModelForSequenceClassification, num_labels=2, **SIZES[family])
    backbone = wrap_model(model, tiny_tokenizer(family), name="x").to(dtype=torch.float64)
    delta = make_delta("full", backbone, scope="all")
    problem = ClassificationProblem(backbone, toy_task(train=4, test=2), delta, "own", check=False)
    assert places_of(problem, delta) is not None
    rows = tangent_rows(problem, outputs="margin", **FEW).kernel()
    (found,) = tangent_kernels(problem, [delta], outputs="margin", **FEW)
    assert float((found.kernel() - rows).norm() / rows.norm()) < 1e-5
    tables = ["shared", *(f"{stack}.embed_positions" for stack in ("encoder", "decoder") if family == "bart")]
    assert min(float(found.parts[name].abs().max()) for name in tables) > 1e-3


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("gate", ["values", "none"])
def test_a_prefix_reaches_every_attention(family, gate):
    """One configuration object alone was edited once, and a prefix of the decoder never called."""
    for_all = problem_of("prefix", family, {"length": 2, "gate": gate})
    numbers = for_all.delta.numbers
    blocks = len(for_all.backbone.layers)
    assert numbers == tuple(for_all.backbone.attention_modules) == tuple(range(blocks + 1))
    batch, _ = for_all.batch(for_all.train, [0, 1])
    pairs = autodiff.vjp(lambda x: for_all.logits(x, batch), for_all.delta.initial())
    moved = for_all.delta.coordinates.split(pairs[1](torch.randn_like(pairs[0])))
    assert all(moved[f"{n}.value"].abs().max() > 1e-6 for n in numbers)

    cross = problem_of("prefix", family, {"length": 2, "gate": gate, "attention": "cross"}).delta
    assert cross.numbers == (blocks,)
    assert cross.specification()["attention"] == "cross"
    own = problem_of("prefix", family, {"length": 2, "attention": "self", "blocks": [blocks - 1]}).delta
    assert own.numbers == (blocks - 1,)


def test_a_cross_prefix_needs_cross_attention():
    with pytest.raises(ValueError, match=r"attention='cross': none of .* 'tiny-gpt2' \(causal\) attends"):
        make_delta("prefix", tiny("gpt2"), attention="cross")
    with pytest.raises(ValueError, match=r"'tiny-bart' \(encoder-decoder\) attends to a memory"):
        make_delta("prefix", tiny("bart"), attention="cross", blocks=[0])
    with pytest.raises(ValueError, match="attention='both': allowed are all, self, cross"):
        make_delta("prefix", tiny("bart"), attention="both")
    assert "attention" not in make_delta("prefix", tiny("gpt2")).specification()


def test_relative_positions_are_trained_for_all_blocks():
    """A block behind the first took zeros for them, silently."""
    problem = problem_of("modules", "t5", {"patterns": ["*relative_attention_bias*"]})
    backbone, point = problem.backbone, torch.ones(problem.delta.size, dtype=torch.float64).cumsum(0)
    batch, _ = problem.batch(problem.train, [0, 1, 2])
    edit = problem.delta.edit(0.1 * point)
    x = backbone.embed(batch, edit)
    for t in range(len(backbone.layers)):
        without = backbone.step(t, x, batch)
        x = backbone.step(t, x, batch, edit)
        # the decoder reads one token, which has no other to be near
        assert torch.equal(x, without) == (t == 2)
    torch.testing.assert_close(backbone.readout(x, batch), backbone.hidden_states(batch, edit))
    assert places_of(problem, problem.delta) is not None
