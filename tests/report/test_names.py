"""Names of models, tasks, methods and layers are text on pages and in figures, whatever they are."""

import re
from dataclasses import replace

import pytest
from sample_results import a_result
from skeletons import HOSTILE, tags

from deltatheory.report import page_of
from deltatheory.report.page import literal, new_figure, plain_svg, style, svg


@pytest.mark.parametrize("text", HOSTILE)
def test_the_label_of_a_drawing_is_one_attribute(text):
    figure = new_figure(1.0, 1.0)
    assert tags(svg(figure, text)) == tags(svg(figure, "abc"))


@pytest.mark.filterwarnings("ignore:.*Glyph")
@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_in_a_figure_is_no_formula(text):
    with style():
        figure = new_figure(9.0, 4.0)
        axes = figure.subplots()
        axes.plot([1, 2], label=literal(text))
        axes.set(title=literal(text), yticks=[1], yticklabels=[literal(text)])
        axes.legend()
    assert not re.search(r"<(img|script|b>)|<!-- [^>]*<", plain_svg(figure))


@pytest.mark.parametrize("text", ["".join(HOSTILE), "".join(reversed(HOSTILE))])
def test_a_page_of_hostile_names_has_the_tags_of_any_other(text, monkeypatch):
    monkeypatch.setattr("deltatheory.report.page.svg", lambda *_: "<svg></svg>")

    def page(name):
        result = a_result()
        assert result.predicted is not None
        return page_of(
            replace(
                result,
                predicted=replace(result.predicted, status=name),
                diagnostics={"missed": [name], "assumptions": [name], name: name},
                settings={**result.settings, name: name},
                provenance={
                    "task": {"name": name},
                    "model": {"name": name},
                    "command": ["deltatheory", name],
                },
            )
        )

    assert tags(page(text)) == tags(page("abc"))
