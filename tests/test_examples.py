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


def test_what_choosing_links_to_is_there_and_has_its_figures():
    folder = EXAMPLES.parent / "docs"
    text = (folder / "choosing.md").read_text("utf-8")
    tables = {path: (folder / path).read_text("utf-8") for path in re.findall(r"\]\((\S+?)\)", text)}
    assert len(tables) >= 7
    for path, figures in {
        "hundred/performance": "0.858 0.850 0.849 0.842 0.787 0.785 0.657",
        "hundred/convergence": "33.8 32.0 25.5",
        "rates/learning_rate": "78% 62% 6%",
        "study/prediction": "0.75 53%",
        "study/sharpening": "86% 100%",
        "chosen/feedback": "63% 53% 46% 35% 23% 2%",
    }.items():
        table = tables[f"../experiments/results/{path}/table.md"]
        assert all(figure in table for figure in figures.split()), path


def test_every_example_is_run_here():
    text = Path(__file__).read_text("utf-8")
    assert all(f'main_of("{path.stem}")' in text for path in EXAMPLES.glob("*.py"))
