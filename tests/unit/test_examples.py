"""Every verb's help ends with commands that can be pasted: the command line takes each of them."""

import shlex

import pytest
import typer
from typer.testing import CliRunner

from factory.cli import app
from factory.ui.examples import EXAMPLES

GROUP = typer.main.get_command(app)
COMMANDS: dict[str, object] = vars(GROUP)["commands"]


def test_every_verb_has_two_examples() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    assert all(len(set(examples)) == 2 for examples in EXAMPLES.values())


@pytest.mark.parametrize("verb", sorted(EXAMPLES))
def test_the_command_line_takes_each_example(verb: str) -> None:
    for example in EXAMPLES[verb]:
        name, *arguments = shlex.split(example)
        assert name == verb and len(example) <= 70
        if "--help" not in arguments:
            GROUP.commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]


def test_help_ends_with_the_examples_each_on_a_line_of_its_own() -> None:
    lines = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["compare", "--help"]).output.splitlines()
    shown = [line.strip() for line in lines if line.strip()][-2:]
    assert shown == [f"factory {example}" for example in EXAMPLES["compare"]]
