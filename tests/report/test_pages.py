"""Every command says the same on the terminal and on a page, which a phone shows without scrolling."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from sample_results import LONG, ONE_OF_EACH, TRAINING

from deltatheory.cli.output import WIDTH, tell
from deltatheory.report import page_of
from deltatheory.report.page import COLOURS, record_of
from deltatheory.results import answered

COMMANDS = list(ONE_OF_EACH)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def pages():
    return {name: page_of(result) for name, result in ONE_OF_EACH.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_answer_warning_figure_tables_settings_and_command_and_loads_nothing(pages, name):
    page, said = pages[name], answered(ONE_OF_EACH[name])
    text = re.sub(r"<svg.*?</svg>", "<svg>", page, flags=re.DOTALL)
    assert text.count("<svg>") == 2  # one of them for phones
    headline = page.index('class="headline')
    assert headline < page.index("<svg") < page.index("<table") < page.index("The same again")
    for word in (*said.note.items, *(one.heading for one in said.sections)):
        assert _escaped(word) in text
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\((?!#)|<script|None""", text)
    assert f"deltatheory {name}" in text
    assert len(set(re.findall(r'clip-path="url\(#(\w+)\)', page))) >= 2  # no drawing uses names of the other


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;")


@pytest.mark.parametrize("name", COMMANDS)
def test_drawings_have_colours_of_the_page_and_no_legend_over_data(pages, name):
    drawings = re.findall(r"<svg.*?</svg>", pages[name], flags=re.DOTALL)
    assert not re.search("#[0-9a-f]{6}", "".join(drawings))
    assert set(re.findall(r"var\(--(\w+)\)", "".join(drawings))) <= COLOURS.keys()
    figure = ONE_OF_EACH[name].plot()
    assert all(axes.get_legend() is None for axes in figure.axes)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_says_the_answer_first_then_tables_then_where_it_is(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(type(ONE_OF_EACH[name]), "save", lambda self, folder: folder / "report.html")
    tell(ONE_OF_EACH[name], tmp_path, Delta="delta.safetensors")
    lines = capsys.readouterr().out.splitlines()
    said = answered(ONE_OF_EACH[name])
    assert lines[0] == said.sentence
    assert lines[-1] == f"Report: {(tmp_path / 'report.html').as_uri()}"
    assert f"Delta: {tmp_path / 'delta.safetensors'}" in lines
    tables = [one for one in said.sections if one.brief and one.rows]
    assert tables
    rules = [line for line in lines if set(line) == {"─"}]
    assert len(rules) == len(tables)
    assert max(map(len, rules)) <= WIDTH


def test_a_delta_that_does_not_beat_a_constant_is_warned_of():
    said = answered(TRAINING)
    assert said.missed
    assert (
        "Test accuracy 0.784 (90 % interval 0.738–0.825) on 240 texts; the frozen model has 0.400"
        in said.sentence
    )
    assert any(x.startswith(f"Does not beat always answering {LONG!r}") for x in said.note.items)
    assert any("No text is answered right of 1 classes: 'rare'" in x for x in said.note.items)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_list_of_runs_reads_is_plain(name):
    record = json.loads(json.dumps(record_of(ONE_OF_EACH[name], answered(ONE_OF_EACH[name]))))
    assert record["answer"] == answered(ONE_OF_EACH[name]).sentence
    assert record["command"].startswith("deltatheory")
    assert {"model", "task"} <= record.keys()


class _Output(HTMLParser):
    """The text of the element that the harness writes to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found, self.inside = "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inside = dict(attrs).get("id") == "output"

    def handle_data(self, data):
        self.found += data if self.inside else ""


PAPER = 700  # pixels between the margins of a sheet of A4

HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const names = %s, sizes = [390, 1280, PAPER], found = {};
let waiting = names.length * sizes.length;
for (const name of names) for (const size of sizes) {
  const frame = document.createElement("iframe");
  frame.style = `width:${size}px;height:900px;border:0`;
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement, printed = size == PAPER;
    const folds = [...page.querySelectorAll("details")];
    if (!printed) folds.forEach(x => x.open = true);
    const hidden = folds.filter(x => !x.lastElementChild.checkVisibility());
    const seen = [...page.querySelectorAll("figure svg")].filter(x => x.getBoundingClientRect().width > 0);
    const scrolled = [...page.querySelectorAll(".scroll")].filter(x => x.scrollWidth > x.clientWidth + 1);
    const letters = seen.map(x => x.getBoundingClientRect().width / x.viewBox.baseVal.width * 10);
    found[name + " " + size] =
      [root.scrollWidth, seen.length, scrolled.length, Math.min(...letters), hidden.length];
    if (!--waiting) {
      const output = document.createElement("pre");
      output.id = "output"; output.textContent = JSON.stringify(found); document.body.append(output);
    }
  };
  frame.src = (size == PAPER ? "printed " : "") + name + ".html"; document.body.append(frame);
}
</script></body>""".replace("PAPER", str(PAPER))


def printed(page: str) -> str:
    """The page as its rules for printing have it, on a screen."""
    return page.replace("@media print", "@media all").replace("@media screen", "@media not all")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_pages_fit_a_phone_a_screen_and_paper_without_sideways_scrolling(pages, tmp_path):
    """What is folded is unfolded on paper, which shows no part of what a box would scroll."""
    for name, page in pages.items():
        (tmp_path / f"{name}.html").write_text(page)
        (tmp_path / f"printed {name}.html").write_text(printed(page))
    (tmp_path / "harness.html").write_text(HARNESS % json.dumps(COMMANDS))
    flags = "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=5000"
    words = [str(BROWSER), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*words, (tmp_path / "harness.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    found = json.loads(_Output(done.stdout).found)
    assert found.keys() == {f"{name} {size}" for name in COMMANDS for size in (390, 1280, PAPER)}
    for which, (width, drawings, scrolled, letters, hidden) in found.items():
        assert width <= int(which.split()[1]), which
        assert (drawings, scrolled, hidden) == (1, 0, 0), which
        assert letters >= 10, which  # pixels of a label of ten points
