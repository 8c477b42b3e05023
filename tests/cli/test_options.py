"""Options that commands share: one place, made into objects, nothing heavy before a command runs."""

import inspect

import pytest
import typer
from typer.testing import CliRunner

from deltatheory.cli import app
from deltatheory.cli.options import DELTA, SETUP, TABLE, TRAINING, Group, Shared, command, options_of
from deltatheory.problems import Setup
from deltatheory.tasks import TableOptions
from deltatheory.training import Training

COMMANDS = {one.callback.__name__: one.callback for one in app.registered_commands}


def run(function, *arguments: str):
    own = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    own.command()(function)
    return CliRunner().invoke(own, list(arguments))


@pytest.mark.parametrize(("group", "made"), [(SETUP, Setup), (TRAINING, Training)])
def test_the_options_of_a_group_are_the_arguments_of_what_it_makes(group, made):
    apart = {"revision", "dtype", *TABLE}
    assert group.options.keys() - apart == inspect.signature(made).parameters.keys()
    assert isinstance(group.make(**{name: option.default for name, option in group.options.items()}), made)


def test_the_defaults_of_a_setup_are_those_of_the_class():
    defaults = {name: p.default for name, p in inspect.signature(Setup).parameters.items()}
    apart = {"revision": None, "dtype": "float32", **{name: option.default for name, option in TABLE.items()}}
    assert {name: option.default for name, option in SETUP.options.items()} == defaults | apart


def test_what_is_planned_in_python_is_what_the_command_plans():
    assert Training() == Training(**{name: option.default for name, option in TRAINING.options.items()})


def test_a_table_is_read_alike_from_the_command_line_and_from_python():
    fields = {name: field.default for name, field in TableOptions.__dataclass_fields__.items()}
    assert {name: option.default for name, option in TABLE.items()} == fields
    seen = []

    @command(setup=SETUP.only("model", "task"))
    def example(setup):
        seen.append(setup.settings()["task"])

    assert run(example, "--task", "my.csv", "--label", "stars", "--skip-bad").exit_code == 0
    assert run(example, "--task", "my.csv").exit_code == 0
    assert seen == [{"source": "my.csv", "label": "stars", "skip_bad": True}, "my.csv"]
    assert "--test-share=2.0: must lie" in run(example, "--task", "absent.csv", "--test-share", "2").stderr


def test_every_command_that_has_a_folder_of_its_own_can_be_quiet():
    taken = {name: inspect.signature(one).parameters for name, one in COMMANDS.items()}
    runs = {name for name, own in taken.items() if "out" in own and own["out"].default.parts[0] == "runs"}
    assert "explain" in runs
    assert all("progress" in taken[name] for name in runs - {"export"})  # which does nothing that lasts


def test_revision_and_type_of_a_model_are_options_of_every_command_that_takes_one():
    seen = []

    @command(setup=SETUP)
    def example(setup):
        seen.append(setup.model)

    assert run(example, "--model", "org/model", "--revision", "v1").exit_code == 0
    assert run(example, "--model", "org/model").exit_code == 0
    assert run(example, "--model", "org/model", "--dtype", "bfloat16").exit_code == 0
    assert seen == ["org/model@v1", "org/model", {"name": "org/model", "dtype": "bfloat16"}]
    assert run(example, "--dtype", "int8").exit_code == 2
    takers = [n for n, f in COMMANDS.items() if {"model", "task"} <= inspect.signature(f).parameters.keys()]
    assert len(takers) == 10
    loading = [n for n in takers if n not in ("explain", "predict")]  # whose model is what the adapter names
    assert all({"revision", "dtype"} <= inspect.signature(COMMANDS[n]).parameters.keys() for n in loading)


def test_a_suffix_is_an_option_of_every_command_that_takes_a_task_and_a_head():
    options = {name: inspect.signature(one).parameters.keys() for name, one in COMMANDS.items()}
    takers = {name for name, given in options.items() if {"task", "head"} <= given}
    assert len(takers) == 10
    assert takers == {name for name, given in options.items() if "suffix" in given}


def test_a_command_gets_objects_and_an_option_of_two_groups_once():
    seen = {}

    @command(setup=SETUP.only("model", "seed"), training=TRAINING.only("steps", "seed"), delta=DELTA)
    def example(setup, training, delta, out: str = "here"):
        """Say what it was given."""
        seen.update(setup=setup, training=training, delta=delta, out=out)

    given = "--model m --seed 3 --steps 7 --delta lora:2 --option alpha=4 --out there"
    done = run(example, *given.split())
    assert done.exit_code == 0, done.output
    assert (seen["setup"].model, seen["setup"].seed) == ("m", 3)
    assert seen["training"] == Training(steps=7, seed=3)
    assert seen["delta"] == ("lora:2", {"alpha": 4})
    assert seen["out"] == "there"
    shown = run(example, "--help").output
    assert shown.count("--seed") == 1
    assert "Say what it was given." in shown
    assert shown.index("--delta") < shown.index("--seed") < shown.index("--out")  # as in every command


def test_the_first_of_several_groups_says_how_an_option_is_shown():
    @command(setup=SETUP.only("seed"), training=TRAINING.changed(help={"seed": "hidden"}))
    def example(setup, training):
        """Do nothing."""

    shown = run(example, "--help").output
    assert SETUP.options["seed"].help in shown
    assert "hidden" not in shown


def test_a_group_is_changed_in_a_copy():
    changed = TRAINING.only("steps", "clip").changed(default={"steps": 5}, help={"clip": "No more."})
    assert (changed.options["steps"].default, changed.options["clip"].help) == (5, "No more.")
    assert TRAINING.options["steps"].default == 240
    assert list(changed.options) == ["steps", "clip"]


def test_an_option_may_have_another_name_and_be_turned_into_another_value():
    seen = []
    group = Group(
        lambda **values: values, {"n": Shared(int, 4, "How many.", flag="--count", callback=lambda n: 2 * n)}
    )

    @command(given=group)
    def example(given):
        seen.append(given)

    assert run(example, "--count", "3").exit_code == run(example).exit_code == 0
    assert seen == [{"n": 6}, {"n": 8}]


@pytest.mark.parametrize("error", [ValueError("x=1:\n  no"), FileNotFoundError("no f")])
def test_what_a_group_or_a_command_refuses_is_one_line(error):
    def refuse(**values):
        raise error

    @command(given=Group(refuse, {}))
    def example(given):
        """Never runs."""

    done = run(example)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("Error: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_has_more_than_nine_parameters_written_out(name):
    written = inspect.signature(inspect.unwrap(COMMANDS[name]), follow_wrapped=False)
    assert len(written.parameters) <= 9


def test_options_are_json_where_they_can_be():
    assert options_of(['a="x"', "b=x=y", "c=null"]) == {"a": "x", "b": "x=y", "c": None}
    with pytest.raises(ValueError, match="option='=3': must be NAME=VALUE"):
        options_of(["=3"])
