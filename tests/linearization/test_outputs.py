from __future__ import annotations

import pytest
import torch

from deltatheory.linearization.outputs import LinearizationStart, output_map
from deltatheory.problems import CrossEntropy

CLASSES = 4


def drawn(seed: int, examples: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(examples, CLASSES, generator=generator, dtype=torch.float64)
    return logits, torch.randint(CLASSES, (examples,), generator=generator)


def test_a_start_of_margins_judges_by_the_largest_competitor():
    """A margin below 0 may still be solved: it sums the competitors, a judgement asks for the largest."""
    logits, labels = drawn(1, 50)
    judged = drawn(2, 50)[0]
    start = LinearizationStart.of_margins(logits, labels, judged, CrossEntropy())
    assert torch.equal(start.solved(start.logits), judged.argmax(1) == labels)
    assert not torch.equal(start.logits.argmax(1) == 1, judged.argmax(1) == labels)


def test_a_subset_keeps_its_order():
    logits, labels = drawn(3)
    start = LinearizationStart(logits.float(), labels, logits.float() + 1).subset([4, 0])
    assert torch.equal(start.labels, labels[[4, 0]])
    exact = start.double()
    assert exact.judging_offset.dtype == torch.float64
    assert torch.equal(exact.judging_offset, (logits.float() + 1).double()[[4, 0]])
    assert len(exact) == 2


def test_the_residual_is_the_gradient_of_the_loss_downhill():
    logits, labels = drawn(4)
    leaf = logits.clone().requires_grad_()
    torch.nn.functional.cross_entropy(leaf, labels, reduction="sum").backward()
    torch.testing.assert_close(LinearizationStart(logits, labels, 0 * logits).residual(), -leaf.grad)


@pytest.mark.parametrize(("outputs", "count"), [("logits", CLASSES - 1), ("margin", 1), ("contrast", 1)])
def test_each_kind_of_output_says_how_many_it_has(outputs, count):
    of_logits, said = output_map(outputs, CrossEntropy(), CLASSES, seed=0)
    logits, labels = drawn(5)
    assert of_logits(logits[0], labels[0]).reshape(-1).shape == (said,) == (count,)


def test_other_outputs_are_refused():
    with pytest.raises(ValueError, match="outputs='margins': allowed are 'logits', 'margin', 'contrast'"):
        output_map("margins", CrossEntropy(), CLASSES, seed=0)
