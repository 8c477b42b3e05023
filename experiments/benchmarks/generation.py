"""What kept keys and values save: answers token by token, and with a pass over the whole text for each token.

    python -m experiments.benchmarks.generation --out experiments/results/benchmarks

Random weights of the shape of T5-small (six blocks of width 512 in either stack) and of as many causal blocks
of that width; times are medians over interleaved repetitions, on `--threads` threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from deltatheory.backbones import Backbone, CachedTexts, Edit
from deltatheory.problems.tokens import batch_of
from experiments.benchmarks.random_model import random_model
from experiments.measuring import interleaved, write
from experiments.page import Table

_VOCABULARY = 8000  # of either shape: lm_head is not what is compared
_TEXTS = 4


def main(
    out: Annotated[Path, typer.Option(help="Folder for generation-cpu.{json,md}.")],
    threads: int = 1,
    repetitions: int = 3,
    source: int = 64,
    device: str = "cpu",
) -> None:
    """Measure and write one table."""
    from transformers import GPT2Config, T5Config

    torch.set_num_threads(threads)
    t5 = T5Config(vocab_size=_VOCABULARY, decoder_start_token_id=0)
    gpt2 = GPT2Config(vocab_size=_VOCABULARY, n_layer=6, n_embd=512, n_head=8, bos_token_id=0, eos_token_id=0)
    shapes: dict[str, Any] = {"T5-small": t5, "GPT-2 of its size": gpt2}
    rows = []
    for name, config in shapes.items():
        backbone = random_model(config, name, device)
        for tokens in (8, 32):
            rows.append(
                {"model": name, "new tokens": tokens, **_measure(backbone, source, tokens, repetitions)}
            )
    text = (
        f"{Table('', list(rows[0]), [list(row.values()) for row in rows]).body()}\n\n"
        f"{_TEXTS} sources of {source} tokens, {threads} thread(s), {repetitions} repetitions, "
        f"device {device}."
    )
    write(out / f"generation-{device}", {"rows": rows}, text)


@torch.no_grad()
def _measure(backbone: Backbone, source: int, tokens: int, repetitions: int) -> dict[str, float]:
    sources = torch.randint(
        1, _VOCABULARY, (_TEXTS, source), generator=torch.Generator().manual_seed(0)
    ).tolist()
    found: dict[str, torch.Tensor] = {}

    def cached() -> None:
        texts = CachedTexts(backbone, batch_of(backbone, sources), Edit())
        chosen = [_best(backbone, texts.last)]
        while len(chosen) < tokens:
            texts.read(chosen[-1])
            chosen.append(_best(backbone, texts.last))
        found["cached"] = torch.stack(chosen, 1)

    def whole() -> None:
        two = backbone.kind == "encoder-decoder"
        chosen: list[list[int]] = [[] for _ in sources]
        for _ in range(tokens):
            if two:
                batch = batch_of(backbone, sources, answers=[[*backbone.start, *row] for row in chosen])
            else:
                batch = batch_of(backbone, [[*row, *more] for row, more in zip(sources, chosen, strict=True)])
            best = _best(backbone, backbone.hidden_states(batch)[:, -1])
            for row, token in zip(chosen, best.tolist(), strict=True):
                row.append(token)
        found["whole"] = torch.tensor(chosen)

    times = interleaved({"cached": cached, "whole": whole}, repetitions, backbone.device.type == "cuda")
    if not torch.equal(found["cached"].cpu(), found["whole"]):
        raise RuntimeError("the answers differ")
    return {
        "cached s": times["cached"],
        "whole texts s": times["whole"],
        "times faster": times["whole"] / times["cached"],
    }


def _best(backbone: Backbone, states: torch.Tensor) -> torch.Tensor:
    return backbone.vocabulary_logits(states).argmax(-1)


if __name__ == "__main__":
    typer.run(main)
