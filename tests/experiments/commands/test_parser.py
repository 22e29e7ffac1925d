"""A command is a value: how it is called and what it does."""

import argparse

import pytest

from experiments.commands.parser import Command, Group, count, option


@pytest.fixture
def parse():
    """Parse words with one command or group."""

    def parsed(entry, *words):
        parser = argparse.ArgumentParser()
        common = argparse.ArgumentParser(add_help=False)
        common.add_argument("--loud", action="store_true")
        entry.add_to(parser.add_subparsers(), common)
        return parser.parse_args(words)

    return parsed


@pytest.fixture
def command():
    return Command(
        name="add",
        action=lambda options: options.number + 1,
        what="add one",
        examples=(("mtkd add 3", "gives 4"),),
        options=(option("number", type=count),),
    )


def test_its_options_are_rows_and_its_action_takes_what_was_parsed(command, parse):
    options = parse(command, "add", "3", "--loud")
    assert options.action(options) == 4 and options.loud


def test_a_group_holds_commands_of_its_own(command, parse):
    group = Group(name="sums", what="sums", examples=(), commands=(command,))
    options = parse(group, "sums", "add", "3")
    assert options.action(options) == 4
    assert not hasattr(parse(group, "sums"), "action")


def test_its_help_is_its_sentence_and_its_examples(command, parse, capsys):
    with pytest.raises(SystemExit):
        parse(command, "add", "--help")
    shown = capsys.readouterr().out
    assert "Add one." in shown
    assert shown.endswith("examples:\n  mtkd add 3\n      gives 4\n")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_things_is_one_or_more(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give 1 or more"):
        count(text)
