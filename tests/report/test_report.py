"""The page and the figure, against results made by hand."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from sample_results import EVERY_RESULT, MEASURED, OPEN, REFUSED, UNREACHED, a_result, accuracy

from deltatheory.dimension.criterion import DimensionEstimate
from deltatheory.report import count, dimension_figure, page_of, span, whole


class Parsed(HTMLParser):
    """The text of a page without its drawing, and the balance of its tags."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())  # with every kind of space as a plain one

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"svg", "style"} & set(self.open):
            self.words.append(data)


@pytest.fixture
def words_only(monkeypatch):
    """Pages without drawings, which take most of their time."""
    monkeypatch.setattr("deltatheory.report.page.svg", lambda *_: "<svg></svg>")


@pytest.mark.parametrize("name", EVERY_RESULT)
def test_every_result_has_a_well_formed_page_that_loads_nothing(name, words_only):
    page = page_of(EVERY_RESULT[name])
    parsed = Parsed(page)
    assert parsed.open == []
    assert "None" not in parsed.text
    assert page.count("<svg") == 2  # one of them for phones
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\((?!#)|<script""", page)


def test_the_headline_comes_first_and_what_missed_before_the_figure(words_only):
    page = page_of(a_result())
    text = Parsed(page).text
    assert "Predicted before training: d90 = 190 (90 % interval 90–400)" in text
    assert "Measured by training: d90 = 240 (90 % interval 180–310)" in text
    assert page.index("Measured by training") < page.index("What missed") < page.index("<svg")
    assert "0.79" in text  # the ratio of the two
    assert "deltatheory dimension --out 'a folder'" in text


def test_costs_are_in_passes_and_in_full_runs_on_both_sides(words_only):
    text = Parsed(page_of(a_result())).text
    assert "predicted before training 3 500 0.25 41" in text  # 5 runs took 70 000 passes
    assert "measured by training 70 000 5 612" in text
    assert "measured / predicted 20 15" in text


def test_text_of_a_result_cannot_become_markup(words_only):
    page = page_of(a_result(provenance={"task": "<script>alert(1)</script>", "command": "x</pre><b>"}))
    assert "<script" not in page
    assert "&lt;b&gt;12 %&lt;/b&gt; &amp; more." in page
    assert "x&lt;/pre&gt;" in page


def test_where_nothing_missed_the_page_says_what_was_checked(words_only):
    told = {"missed": [], "checked": ["Linearization error 0.2 is within 0.5."], "rank": 448}
    assert (
        "Nothing. Checked and passed: Linearization error 0.2"
        in Parsed(page_of(a_result(diagnostics=told))).text
    )
    only_values = {"missed": [], "linearization_error": 0.2}
    assert (
        "within bounds: linearization error (0.2)" in Parsed(page_of(a_result(diagnostics=only_values))).text
    )
    assert "Nothing was checked" in Parsed(page_of(a_result(diagnostics={}))).text


def test_a_value_that_is_not_there_is_said_in_words(words_only):
    text = Parsed(page_of(a_result(predicted=REFUSED, measured=UNREACHED))).text
    assert f"Predicted before training: d90 is not predicted, {REFUSED.status} Measured" in text
    assert "Measured by training: d90 not reached (90 % interval above 3 300)" in text
    assert REFUSED.status in text


def test_the_symbol_and_the_definition_follow_the_criterion(words_only):
    settings = {"criterion": {"fraction": 0.8, "baseline": 0.95, "corrected": True}, "steps": 77}
    text = Parsed(page_of(a_result(settings=settings))).text
    assert "d80 = 190" in text
    assert "chance + 0.8 · (baseline − chance)" in text
    assert "the accuracy given, 0.95" in text
    assert "77 steps" in text
    assert "d90" not in text


def test_a_long_list_is_cut_and_says_so(words_only):
    text = Parsed(page_of(a_result())).text
    assert "10, 11, ... (50 values; all are in result.json)" in text
    assert "12, 13" not in text


def test_the_drawing_has_only_colours_that_the_page_can_swap():
    page = page_of(a_result())
    drawing = page[page.index("<svg") : page.index("</svg>")]
    assert not re.search("#[0-9a-f]{6}", drawing)
    used = set(re.findall(r"var\(--(\w+)\)", drawing))
    assert used >= {"predicted", "measured", "ink", "faint"}
    for name in used:  # once for light, once for dark
        assert page.count(f"--{name}:") == 2


def test_the_same_result_gives_the_same_page():
    assert page_of(a_result()) == page_of(a_result())


@pytest.mark.parametrize("name", EVERY_RESULT)
def test_no_label_of_the_figure_is_clipped_or_lies_on_another(name):
    figure = dimension_figure(EVERY_RESULT[name])
    figure.draw_without_rendering()
    curve, bars = figure.axes
    labels = [*bars.get_xticklabels(), *bars.get_yticklabels(), *curve.get_yticklabels()]
    low, high = curve.get_ylim()
    labels = [
        x
        for x in labels
        if x.get_text() and (x not in curve.get_yticklabels() or low <= x.get_position()[1] <= high)
    ]
    labels += [*bars.texts, bars.xaxis.label, curve.yaxis.label, *figure.legends[0].get_texts()]
    boxes = [label.get_window_extent() for label in labels]
    whole_figure = figure.bbox
    for label, box in zip(labels, boxes, strict=True):
        inside = box.x0 >= whole_figure.x0 and box.x1 <= whole_figure.x1
        assert inside, label.get_text()
        assert box.y0 >= whole_figure.y0, label.get_text()
        assert box.y1 <= whole_figure.y1, label.get_text()
    for i, a in enumerate(boxes):
        for j in range(i):
            assert not a.overlaps(boxes[j]), (labels[i].get_text(), labels[j].get_text())


def test_the_figure_shows_each_run_once_and_leaves_no_global_state():
    import matplotlib

    before = dict(matplotlib.rcParams)
    curve, _ = dimension_figure(a_result()).axes
    assert dict(matplotlib.rcParams) == before
    drawn = {tuple(point) for line in curve.lines if line.get_marker() == "o" for point in line.get_xydata()}
    assert drawn == {(d, accuracy(d)) for d in (64, 128, 181, 256)}  # the diverged run has no accuracy
    mean = next(line for line in curve.lines if "predicted" in str(line.get_label()))
    np.testing.assert_allclose(
        mean.get_ydata()[3], np.mean([accuracy(32) + 0.01 * np.sin(s + 5) for s in range(8)])
    )


def test_a_dimension_of_zero_is_a_point_and_an_open_end_an_arrow():
    """A zero whose ends are zero had a bar over the whole axis."""
    zero = DimensionEstimate(0, 0, 0, "the frozen model reaches it")
    for found, end in ((zero, None), (DimensionEstimate(0, 0, 40, ""), 40), (UNREACHED, "arrow")):
        curve, bars = dimension_figure(a_result(predicted=None, measured=found)).axes
        left, right = curve.get_xlim()
        bar = next(line for line in bars.lines if line.get_linewidth() == 6)
        markers = [line.get_marker() for line in bars.lines]
        reach = {None: left, 40: 40, "arrow": right}[end]
        assert bar.get_xdata()[-1] == pytest.approx(reach)
        assert (">" in markers) == (end == "arrow")
        assert ("o" in markers) == (found.value is not None)


def test_a_loss_is_drawn_and_told_as_one(words_only):
    result = a_result()
    points = [replace(p, test_loss=1.5 - p.test_metric if p.test_metric else None) for p in result.curve]
    settings = {**result.settings, "criterion": {"fraction": 0.9, "metric": "loss"}}
    both = {name: {"d50": MEASURED, "d90": OPEN} for name in ("predicted", "measured")}
    page = page_of(replace(result, curve=points, settings=settings, fractions=both))
    text = Parsed(page).text
    assert "90 % of the fall of the loss from the frozen model to the baseline in held-out loss" in text
    assert "d50 240 180–310 the sharpest" in text
    curve, _ = dimension_figure(replace(result, curve=points, settings=settings)).axes
    assert curve.get_ylabel() == "held-out loss"
    drawn = {tuple(xy) for line in curve.lines if line.get_marker() == "o" for xy in line.get_xydata()}
    assert drawn == {(d, 1.5 - accuracy(d)) for d in (64, 128, 181, 256)}


def test_save_writes_the_page_and_the_numbers(tmp_path):
    path = a_result().save(tmp_path / "new" / "folder")
    assert path.read_text() == page_of(a_result())
    assert (path.parent / "result.json").is_file()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"), (0.0, "0"), (3.24, "3.2"), (9.96, "10"), (190.4, "190"), (999.6, "1 000"),
        (12_345, "12 300"), (999_999, "1 M"), (10_646_784, "10.6 M"), (7.1e9, "7.1 G"),
    ],
)  # fmt: skip
def test_numbers_are_read_at_a_glance(number, text):
    assert count(number).replace("\N{NARROW NO-BREAK SPACE}", " ") == text


def test_intervals_in_words():
    assert span(MEASURED) == "180–310"
    assert span(OPEN) == "above 900"
    assert span(REFUSED) == "–"
    assert whole(10_646_784).replace("\N{NARROW NO-BREAK SPACE}", " ") == "10 646 784"
