"""What commands print: the same to a person at a terminal, to a pipe and to a file."""

import pytest
from command_line import run
from typer.testing import CliRunner

from deltatheory.backbones import load_backbone
from deltatheory.cli import app
from deltatheory.cli.output import print_table, progress_bar, table_of
from deltatheory.deltas import DELTAS


def test_a_pipe_gets_no_frames_of_a_bar_and_a_terminal_does(capsys, monkeypatch):
    for terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda answer=terminal: answer)
        with progress_bar(True, total=2) as bar:
            bar.update(2)
        assert bool(capsys.readouterr().err) == terminal


def test_loading_draws_no_bar_in_a_pipe(bert, capfd, monkeypatch):
    from transformers.utils import logging

    monkeypatch.setattr(logging, "_tqdm_active", True)
    load_backbone(str(bert))
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize("name", ["[e₀ + δ; e(text)]", "[b]bold[/b]", ":smile:", "http://x"])
def test_a_cell_is_printed_as_it_is(capsys, name):
    table = table_of("a")
    table.add_row(name)
    print_table(table)
    assert name in capsys.readouterr().out


def test_formulas_of_deltas_survive_and_tables_fit_a_hundred_columns():
    lines = run("deltas").stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert DELTAS["prompt"].formula.startswith("x_0 = [e₀ + δ;")
    assert any("x_0 = [e₀ + δ;" in line for line in lines)


@pytest.mark.parametrize(("set_to", "colour"), [("1", False), ("", True)])
def test_no_color_is_respected(tmp_path, on_a_terminal, set_to, colour):
    words = ["dimension", "--task", "absent", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, words, color=True, env={"NO_COLOR": set_to, "TERM": "xterm"})
    assert done.exit_code == 2
    assert ("\x1b[" in done.stderr) == colour
    assert "\x1b[3" not in CliRunner().invoke(app, ["deltas"], color=True, env={"NO_COLOR": "1"}).stdout
