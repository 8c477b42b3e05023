"""With kept keys and values every state is what it is without."""

import pytest
import torch
from delta_cases import CASES
from tiny_models import TINY, is_causal, tiny

from deltatheory.backbones import Batch, CachedTexts, Edit
from deltatheory.deltas import make_delta
from deltatheory.problems.tokens import batch_of

ROWS = [[4, 9], [5, 7, 8], [10]]
# Angles and softmax are float32 in float64 models too: one token is rounded otherwise than several
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}
NEXT = [[6, 7, 5], [9, 4], [8, 11]]  # tokens of the texts that go on, of which the second drops out


def newest(backbone, rows, edit):
    batch: Batch = batch_of(backbone, rows)
    return torch.stack([backbone.hidden_states(batch, edit)[i, len(row) - 1] for i, row in enumerate(rows)])


def agree(backbone, edit):
    rows = [list(row) for row in ROWS]
    texts = CachedTexts(backbone, batch_of(backbone, rows), edit)
    torch.testing.assert_close(texts.last, newest(backbone, rows, edit), **FLOAT32)
    for step, tokens in enumerate(NEXT):
        if step == 1:
            texts.keep([0, 2])
            rows = [rows[0], rows[2]]
        texts.read(torch.tensor(tokens))
        rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
        torch.testing.assert_close(texts.last, newest(backbone, rows, edit), **FLOAT32)


@pytest.mark.parametrize("family", [family for family in TINY if is_causal(family)])
@torch.no_grad()
def test_every_causal_family(family):
    backbone = tiny(family, dtype=torch.float64)
    agree(backbone, Edit())
    if backbone.max_length > 8:  # a sliding window
        agree(backbone, Edit(prompt=torch.randn(2, 16, dtype=torch.float64), shift=1))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_every_delta(case):
    name, options = CASES[case]
    backbone = tiny("llama", dtype=torch.float64)
    try:
        delta = make_delta(name, backbone, **options)
    except ValueError as error:
        pytest.skip(f"no place in this model: {error}")
    torch.manual_seed(0)
    at = delta.initial() + 0.1 * torch.randn(delta.size, dtype=torch.float64)
    agree(backbone, delta.edit(at))
