from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem, toy_task

from deltatheory.backbones import Edit
from deltatheory.control.reach import prompts as prompt_reachability
from deltatheory.control.reach.prompts import (
    PromptSearch,
    class_reachability,
    find_prompts,
    prefix_reach_bound,
    token_reachability,
)
from deltatheory.deltas import make_delta
from deltatheory.results import ResultLog

QUICK = PromptSearch(steps=25, restarts=1, chunk=4)


def pooled_by_edit(backbone, batch, u, kind) -> torch.Tensor:
    """One text at a time, through the deltas: another route to the same hidden states."""
    rows = []
    for i, own in enumerate(u):
        if kind == "prompt":
            edit = Edit(prompt=own)
        else:
            delta = make_delta("prefix", backbone, length=own.shape[-2], gate="none")
            edit = delta.edit(delta.delta_of({t: (key, value) for t, (key, value) in enumerate(own)}))
        rows.append(backbone.pooled(batch.select([i]), edit)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "gemma2"])
def test_every_text_has_a_prompt_of_its_own(family, kind):
    backbone = tiny(family, dtype=torch.float64)
    batch = backbone.encode(["a b c", "d", "e f g h"])
    start, _ = prompt_reachability._start(backbone, 2, kind, 0)
    generator = torch.Generator().manual_seed(0)
    u = start + torch.randn(3, *start.shape, generator=generator, dtype=torch.float64)
    got = backbone.pool(prompt_reachability._states(backbone, batch, u, kind), batch)
    torch.testing.assert_close(got, pooled_by_edit(backbone, batch, u, kind), rtol=0, atol=1e-9)
    swapped = backbone.pool(prompt_reachability._states(backbone, batch, u[[1, 0, 2]], kind), batch)
    assert (swapped - got)[:2].abs().max() > 1e-3  # each text sees its own


@pytest.fixture(scope="module")
def problem():
    return toy_problem("bitfit", task=toy_task(3, test=9), dtype=torch.float64)


PAIRS = [(i, c) for i in range(4) for c in range(3)]


def test_no_token_is_the_frozen_network(problem):
    found = class_reachability(problem, PAIRS, [0])
    logits = problem.predict(problem.delta.initial(), problem.test)
    assert found.shortest == [0 if int(logits[i].argmax()) == c else None for i, c in PAIRS]
    assert found.share(0) == pytest.approx(4 / 12)
    assert found.passes == len(PAIRS)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_what_is_called_reached_is_reached(problem, kind):
    backbone, targets = problem.backbone, torch.tensor([c for _, c in PAIRS])
    batch, _ = problem.batch(problem.test, [i for i, _ in PAIRS])
    search = replace(QUICK, kind=kind, margin=0.1)
    margins, prompts, passes = find_prompts(backbone, batch, problem.read, targets, 2, search)
    logits = problem.head(pooled_by_edit(backbone, batch, prompts, kind))
    others = logits.scatter(1, targets[:, None], -math.inf).amax(1)
    again = logits.gather(1, targets[:, None])[:, 0] - others
    torch.testing.assert_close(again, margins, rtol=0, atol=1e-8)
    _, radius = prompt_reachability._start(backbone, 2, kind, 0)
    assert (prompts.norm(dim=-1, keepdim=True) <= radius * (1 + 1e-9)).all()
    assert int((margins > 0.1).sum()) > 4
    assert passes <= 2 * (QUICK.steps + 1) * len(PAIRS)


def test_soft_prompts_reach_what_words_reach(problem):
    backbone, pairs = problem.backbone, PAIRS
    letters = backbone.model.get_input_embeddings()(torch.arange(4, 20)).detach()
    by_words = []
    for i, c in pairs:
        batch, _ = problem.batch(problem.test, [i] * len(letters))
        logits = problem.read(prompt_reachability._states(backbone, batch, letters[:, None], "prompt"), batch)
        by_words.append(bool((logits.argmax(1) == c).any()))
    found = class_reachability(problem, pairs, [1], search=PromptSearch(steps=40, restarts=3))
    reached = [k is not None for k in found.shortest]
    assert sum(by_words) > 4  # more than the frozen network's own
    assert sum(reached) >= sum(by_words)
    assert sum(w and not r for w, r in zip(by_words, reached, strict=True)) <= 1


def test_longer_prompts_count_what_shorter_ones_reached(problem):
    found = class_reachability(problem, PAIRS, [2, 0, 1], search=QUICK)
    assert found.lengths == (0, 1, 2)
    shares = [found.share(k) for k in found.lengths]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    low, high = found.interval(2)
    assert low < found.share(2) <= high
    assert "no upper bound" in found.upper
    none = class_reachability(problem, PAIRS[:4], [1], search=replace(QUICK, margin=1e6))
    assert none.shortest == [None] * 4
    assert all(value < 1e6 for value in none.margins)


def test_a_search_goes_on_where_it_was_cut_off(problem, tmp_path):
    whole = class_reachability(problem, PAIRS, [0, 1], search=QUICK)
    log = ResultLog(tmp_path / "log.jsonl")

    class Cut(Exception):
        pass

    def cut(done: int, total: int) -> None:
        if (done, total) == (4, 8):
            raise Cut

    with pytest.raises(Cut):
        class_reachability(problem, PAIRS, [0, 1], search=QUICK, log=log, on_chunk=cut)
    kept = len(log.rows())
    assert kept == 4  # three chunks of length 0, one of length 1
    resumed = class_reachability(problem, PAIRS, [0, 1], search=QUICK, log=log)
    assert (resumed.shortest, resumed.passes) == (whole.shortest, whole.passes)
    assert len(log.rows()) == 5
    assert resumed.margins == pytest.approx(whole.margins, abs=1e-9)


def test_tokens_of_a_causal_model_are_reached():
    backbone = tiny("gpt2", dtype=torch.float64)
    texts, targets = ["a b c", "d e", "f", "g h"], [5, 9, 12, 7]
    found = token_reachability(backbone, texts, targets, [0, 2], search=QUICK)
    frozen = backbone.vocabulary_logits(backbone.pooled(backbone.encode(texts))).argmax(1)
    assert [k == 0 for k in found.shortest] == (frozen == torch.tensor(targets)).tolist()
    assert found.share(2) > found.share(0)
    with pytest.raises(ValueError, match="no lm_head"):
        token_reachability(tiny("bert"), ["a"], [1], [1])
    with pytest.raises(ValueError, match="targets: are 1; there are 2 texts"):
        token_reachability(backbone, ["a", "b"], [1], [1])


@pytest.mark.parametrize(
    ("pairs", "lengths", "options", "message"),
    [
        ([], [1], {}, "give at least one"),
        ([(99, 0)], [1], {}, r"pairs has \(99, 0\)"),
        ([(0, 3)], [1], {}, r"classes 0\.\.2"),
        ([(0, 0)], [], {}, r"lengths=\[\]"),
        ([(0, 0)], [-1], {}, r"lengths=\[-1\]"),
        ([(0, 0), (0, 1), (0, 2)], [99], {}, "length=99: must lie in"),
    ],
)
def test_bad_input_is_refused(problem, pairs, lengths, options, message):
    with pytest.raises(ValueError, match=message):
        class_reachability(problem, pairs, lengths, **options)


@pytest.mark.parametrize("setting", [{"steps": 0}, {"rate": 0.0}, {"restarts": 0}, {"chunk": 0}])
def test_bad_searches_are_refused(setting):
    with pytest.raises(ValueError, match="must be above 0"):
        PromptSearch(**setting)


def test_reachability_is_drawn(problem):
    pytest.importorskip("matplotlib")
    figure = class_reachability(problem, PAIRS, [0]).plot()
    assert figure.axes[0].get_ylim()[1] > 1


# One head and a prefix.


def head(seed: int, aligned: bool, d: int = 4, e: int = 5, h: int = 6, n: int = 3):
    """A random head; an aligned one values what its query looks for, across its present output."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    query, key_weight, value_weight, x = normal(d), normal(d, h), normal(e, h), normal(n, h)
    if aligned:
        sought = torch.nn.functional.normalize(key_weight.T @ query, dim=0)
        x = x - torch.outer(x @ sought, sought)  # tokens that the query does not look for
        output = value_weight @ x.mean(0)
        across = torch.linalg.qr(torch.stack([output, normal(e)], 1))[0][:, 1]
        value_weight = 0.01 * value_weight + 2 * torch.outer(across, sought)
    return query, x @ key_weight.T, x @ value_weight.T, key_weight, value_weight


def with_prefix(parts, u: torch.Tensor) -> torch.Tensor:
    """Outputs for prefixes u of shape (starts, k, h), by one softmax over all tokens."""
    query, keys, values, key_weight, value_weight = parts
    all_keys = torch.cat([u @ key_weight.T, keys.expand(len(u), -1, -1)], 1)
    all_values = torch.cat([u @ value_weight.T, values.expand(len(u), -1, -1)], 1)
    weights = (all_keys @ query / math.sqrt(len(query))).softmax(1)
    return (weights[:, :, None] * all_values).sum(1)


def adversarial(parts, k: int, norm: float, seed: int, starts: int = 20, steps: int = 60) -> torch.Tensor:
    """Outputs of prefixes that are pushed to move across the present output as far as they can."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(starts, k, parts[3].shape[1], generator=generator, dtype=torch.float64)
    u = (norm * u / u.norm(dim=-1, keepdim=True)).requires_grad_()
    bound = prefix_reach_bound(*parts, length=k, norm=norm)
    along = bound.output / bound.output.norm()
    for _ in range(steps):  # to the point of the sphere that the gradient looks at (Frank & Wolfe 1956)
        y = with_prefix(parts, u)
        across = y - (y @ along)[:, None] * along
        (slope,) = torch.autograd.grad(across.norm(dim=1).sum(), u)
        with torch.no_grad():
            u += slope / slope.norm(dim=-1, keepdim=True) * norm
            u *= norm / u.norm(dim=-1, keepdim=True)
    return with_prefix(parts, u.detach())


def test_no_prefix_of_600_searched_ones_passes_the_bound_and_some_come_close():
    ratios, mutants = [], []
    for seed in range(30):
        k, norm = 2 + seed % 2, (0.5, 1.5)[seed % 2]
        parts = head(seed, aligned=seed % 4 < 2)
        bound = prefix_reach_bound(*parts, length=k, norm=norm)
        fewer = prefix_reach_bound(*parts, length=k - 1, norm=norm)
        for y in adversarial(parts, k, norm, seed):
            ratios.append(bound.ratio(y))
            mutants.append(fewer.ratio(y))
            assert not bound.unreachable(y)
    print(f"largest of {len(ratios)} ratios: {max(ratios):.4f}")
    assert len(ratios) == 600
    assert 0.95 < max(ratios) <= 1
    assert max(mutants) > 1  # the bound of one token fewer is false


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_a_prefix_reaches_is_not_ruled_out_by_rounding(dtype):
    """The bound is attained: one prefix along the key that draws most, values across the present output."""
    ruled_out = []
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: B023, E731
        query, key_weight, across, output = draw(4), draw(4, 4), draw(4), draw(4)
        u = key_weight.T @ query
        u *= (0.1 + 2 * float(torch.rand(1, generator=generator))) / u.norm()
        value_weight = torch.outer(across, u) / u.norm()
        output -= (output @ across) / (across @ across) * across
        parts = [x.to(dtype) for x in (query, draw(1, 4), output[None], key_weight, value_weight)]
        bound = prefix_reach_bound(*parts, length=1, norm=float(u.norm()))
        reached = with_prefix(parts, u.to(dtype)[None, None])[0]
        assert bound.ratio(reached) > 0.9
        ruled_out.append(bound.unreachable(reached))
    assert not any(ruled_out)
    beyond = bound.output + (1.001 if dtype == torch.float64 else 3) * bound.radius * across / across.norm()
    assert bound.unreachable(beyond.to(dtype)) or dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [torch.zeros(4), torch.full((5,), torch.nan)])
def test_a_target_that_is_no_output_is_refused(bad):
    bound = prefix_reach_bound(*head(3, aligned=False), length=2, norm=0.7)
    with pytest.raises(ValueError, match="target: allowed are 5 finite numbers"):
        bound.unreachable(bad.double())


def test_the_prefix_bound_is_what_its_parts_are():
    parts = head(3, aligned=False)
    query, keys, _, key_weight, value_weight = parts
    bound = prefix_reach_bound(*parts, length=2, norm=0.7)
    nothing = with_prefix(parts, torch.zeros(1, 0, 6, dtype=torch.float64))[0]
    torch.testing.assert_close(bound.output, nothing)
    g = (keys @ query / 2).exp().sum()
    reach = 2 * math.exp(float((key_weight.T @ query).norm()) * 0.7 / 2)
    assert bound.share == pytest.approx(float(reach / (reach + g)))
    assert bound.radius == pytest.approx(bound.share * 0.7 * float(torch.linalg.svdvals(value_weight)[0]))
    across = torch.linalg.qr(torch.stack([bound.output, torch.ones(5).double()], 1))[0][:, 1]
    assert bound.unreachable(bound.output + 1.01 * bound.radius * across)
    assert not bound.unreachable(7 * bound.output + 0.99 * bound.radius * across)
    with pytest.raises(ValueError, match="length=0"):
        prefix_reach_bound(*parts, length=0, norm=1.0)
    with pytest.raises(ValueError, match=r"norm=0\.0"):
        prefix_reach_bound(*parts, length=1, norm=0.0)
