"""The scripts under `examples/` run, on tiny settings, and end in what they promise."""

import importlib.util
import re
from pathlib import Path

import pytest
from command_line import letters, save_tiny

from deltatheory.problems import Problem

EXAMPLES = Path(__file__).parents[1] / "examples"


def main_of(name: str):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    return str(letters(folder / "letters.jsonl")), str(save_tiny("bert", folder / "bert"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(Problem, "check", lambda *_: None)
    monkeypatch.setattr("deltatheory.report.page.svg", lambda *_: "<svg></svg>")


def test_which_lora_ends_in_an_adapter_that_peft_loads(given, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    result = main_of("which_lora")(*given, str(tmp_path / "out"), steps=4, examples=16)
    assert capsys.readouterr().out.startswith("Take lora r=")
    assert result.scores.texts == 12
    assert peft.PeftConfig.from_pretrained(str(tmp_path / "out" / "adapter")).r in (1, 4, 16)
    assert (tmp_path / "out" / "report.html").exists()


def test_a_theorem_is_refuted_mended_and_tightened(capsys):
    hopeful, mended, tighter = main_of("is_my_theorem_true")(evaluations=300, examples=5)
    assert (hopeful.refuted, hopeful.confirmed) == (True, "exactly")
    assert mended.holds
    assert tighter.refuted


def test_a_prefix_is_steered_and_measured(given, tmp_path, capsys):
    result = main_of("steer_and_measure")(*given, str(tmp_path / "out"), steps=2, test_examples=12)
    assert set(result.settings) == {"tuned", "pid", "lqr"}
    assert "Who can move the outputs" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").exists()


LINK = re.compile(r"\]\((\S+?)\)")
NUMBER = r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?(?:e[-+]\d+)?"
# With a fraction, thousands or %; of "53 and 63 %" both.
FIGURE = re.compile(r"(?<![\w.,])(\d{1,3}(?:,\d{3})+|\d+\.\d+|\d+(?= (?:(?:and|to) \d+ )?%))")
ADVICE = (EXAMPLES.parent / "docs/choosing.md").read_text("utf-8").split("\n\n")


@pytest.mark.parametrize("part", [part for part in ADVICE if LINK.search(part)], ids=lambda part: part[:30])
def test_a_figure_of_choosing_stands_rounded_on_a_page_beside_it(part):
    pages = [(EXAMPLES.parent / "docs" / link).read_text("utf-8") for link in LINK.findall(part)]
    read = [float(x.replace(",", "")) for page in pages for x in re.findall(NUMBER, page)]
    known = [*read, *(100 * x for x in read if x < 1)]  # shares too
    figures = FIGURE.findall(LINK.sub("]", part))
    assert figures
    for figure in figures:
        digits = len(figure.partition(".")[2])
        assert float(figure.replace(",", "")) in {round(x, digits) for x in known}, figure


def test_advice_has_its_figures_beside_it():
    assert all(LINK.search(part) for part in ADVICE if part.startswith("**"))


def test_every_example_is_run_here():
    text = Path(__file__).read_text("utf-8")
    assert all(f'main_of("{path.stem}")' in text for path in EXAMPLES.glob("*.py"))
