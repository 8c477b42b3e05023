"""Which LoRA for my data? From a table of texts to a trained adapter that `peft` loads.

    python examples/which_lora.py my.csv ./my-model runs/which-lora

Without arguments: the embedded task and model.
"""

import sys
from dataclasses import replace

import deltatheory
from deltatheory.advice import Candidate
from deltatheory.training import held_out_scores

RANKS = (1, 4, 16)


def main(task="stdlib-topics", model="minilm", out="runs/which-lora", *, steps=120, examples=256):
    """Advise on the rank before training, train that LoRA, and write it with its scores."""
    setup, training = deltatheory.Setup(model, task), deltatheory.Training(steps=steps)

    # Kernels of all candidates at once, and the learning rate of each: no training yet.
    candidates = [Candidate("lora", {"r": rank}) for rank in RANKS]
    advice = deltatheory.advise(setup, candidates=candidates, training=training, examples=examples)
    print(advice.answer().sentence)

    chosen = next(one for one in advice.ranked if one.label == advice.winner)
    problem = setup.problem(chosen.method, chosen.options)
    rate = chosen.learning_rate or deltatheory.predict_learning_rate(problem, training=training).rate
    result = deltatheory.train(problem, replace(training, learning_rate=rate))

    # A score alone says little: beside it stand a constant, the frozen model and its own interval.
    result = replace(result, scores=held_out_scores(problem, result.test, result.answers))
    print(result.answer().sentence)
    result.save(out)  # the page, the numbers and δ
    deltatheory.to_peft(problem.delta, result.delta, f"{out}/adapter")
    print(f"PeftModel.from_pretrained(model, '{out}/adapter')")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
