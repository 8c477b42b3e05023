from __future__ import annotations

import math
from statistics import median

import pytest
import torch
from tiny_models import tiny

from deltatheory.backbones import Edit
from deltatheory.control.reach.prefix_bound import first_block_bound, prefix_reach_bound
from deltatheory.control.reach.prompts import prompt_start


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


# The first block of a network.


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_prefix_takes_no_more_of_a_first_block_than_the_bound_and_the_best_takes_it(family):
    backbone = tiny(family, dtype=torch.float64)
    batch = backbone.encode(["a b c d", "e f"])
    longest = prompt_start(backbone, 1, "prefix", 0)[1][0, :, :, 0, 0]
    taken, across = [], []

    def watch(attend, q, k, v, mask):
        """Two keys that each query draws most, for every head; and the value that lies across its output."""
        key_norm, value_norm = (x.repeat_interleave(q.shape[1] // k.shape[1]) for x in longest)
        scale = backbone.attention_modules[0].scaling
        for i, n in enumerate(batch.mask.long().sum(1).tolist()):
            for h in range(q.shape[1]):
                g = h // (q.shape[1] // k.shape[1])
                query = q[i, h, n - 1]
                own = (scale * k[i, g, :n] @ query).exp()
                most = 2 * (scale * key_norm[h] * query.norm()).exp()
                output = own @ v[i, g, :n] / own.sum()
                value = torch.linalg.qr(torch.stack([output, torch.ones_like(output)], 1))[0][:, 1]
                moved = (own @ v[i, g, :n] + most * value_norm[h] * value) / (own.sum() + most)
                moved -= (moved @ output) / (output @ output) * output
                taken.append(float(most / (own.sum() + most)))
                across.append(float(moved.norm() / output.norm()))
        return attend(q, k, v, mask)

    backbone.hidden_states(batch, Edit(attention={0: watch}))
    (bound,) = first_block_bound(backbone, batch, longest, [2])
    for said, attained in ((bound.share, taken), (bound.radius, across)):
        assert said == pytest.approx((min(attained), median(attained), max(attained)))


@pytest.mark.parametrize("family", ["gemma2", "t5"])
def test_where_scores_are_no_products_there_is_no_bound(family):
    backbone = tiny(family)
    assert first_block_bound(backbone, backbone.encode(["a b"]), torch.ones(2, 2), [1]) == []
