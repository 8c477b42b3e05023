"""What steering of generated text says, on the terminal and on its page."""

from sample_results import _about

from deltatheory.cli.output import WIDTH, tell
from deltatheory.control.generation.comparison import GeneratedRow, GenerationSteering


def result(best: float = 0.8) -> GenerationSteering:
    def row(policy, strength, share, perplexity, distinct=0.9):
        return GeneratedRow(policy, strength, share, perplexity, distinct, 0.02, 100.0, ["a text\n" * 9])

    rows = [
        row("none", None, 0.3, 8.0),
        row("instruction", None, 0.5, 9.0),
        row("random-direction", 4.0, 0.35, 8.5),
        row("liseco", 4.0, best, 11.9),
        row("liseco", 8.0, 0.9, 12.1),  # too far from the text without control
        row("pid", 8.0, 1.0, 2.0, 0.5),  # goes round in circles
    ]
    about = {**_about("steer"), "settings": {}}
    return GenerationSteering(
        "positive", rows, [3, 4], [0.7, 0.8], 160, {"accuracy": 0.9, "texts": 500}, 24, {}, 9.0, about, {}
    )


def test_the_answer_is_the_best_share_where_the_text_stays_near(capsys, tmp_path, monkeypatch):
    said = result().answer()
    assert said.sentence.startswith(
        "liseco at 4: 80% of 24 texts on target 'positive', 30% without control, 50%"
    )
    assert not said.missed
    assert any("Random directions of the same length bring up to 35%" in x for x in said.note.items)
    assert result().plot().axes[0].get_xlabel().startswith("perplexity")
    monkeypatch.setattr(GenerationSteering, "save", lambda self, folder: folder / "report.html")
    tell(result(), tmp_path)
    rules = [line for line in capsys.readouterr().out.splitlines() if set(line) == {"─"}]
    assert rules
    assert max(map(len, rules)) <= WIDTH
    nothing = result(0.4).answer()
    assert nothing.missed
    assert nothing.sentence.startswith("instruction: 50%")
