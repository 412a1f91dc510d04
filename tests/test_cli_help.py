"""What the command line says of itself: help with examples that are accepted, and near misses."""

from __future__ import annotations

import shlex

import pytest

import focaldet
from focaldet.cli import COMMANDS, main, make_parser

Output = pytest.CaptureFixture[str]


def help_of(capsys: Output, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def examples(text: str) -> list[str]:
    """The lines that help ends with."""
    _, heading, lines = text.replace("examples:\n", "example:\n").partition("\nexample:\n")
    assert heading, f"help ends without an example:\n{text}"
    found = [line.strip() for line in lines.splitlines()]
    assert found and all(line.startswith(("focaldet ", "torchrun ")) for line in found), found
    return found


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_every_help_ends_with_examples_that_are_accepted(
    capsys: Output, command: tuple[str, ...]
) -> None:
    for example in examples(help_of(capsys, *command)):
        words = shlex.split(example)
        words = words[words.index("focaldet") + 1 :]
        if words[-1] == "--help":
            assert examples(help_of(capsys, *words[:-1]))
        else:
            assert make_parser().parse_args(words).command == (command or words)[0]


def test_every_command_is_in_the_help(capsys: Output) -> None:
    text = help_of(capsys)
    for name in COMMANDS:
        assert f"\n    {name}" in text


def test_no_command_prints_the_help(capsys: Output) -> None:
    assert main([]) == 0
    assert capsys.readouterr() == (make_parser().format_help(), "")


def test_the_version(capsys: Output) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"focaldet {focaldet.__version__}\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "did you mean train?"),
        (["eval"], "did you mean evaluate?"),
        (["train", "--out", "x", "--loss", "focl"], "did you mean focal?"),
        (["convert", "x.pth", "--out", "y", "--layout", "detectron"], "did you mean detectron2?"),
        (["evaluate", "--evaluator", "ultra"], "did you mean ultrafast?"),
        (["fly"], ""),
    ],
)
def test_the_nearest_choice_is_named(capsys: Output, words: list[str], meant: str) -> None:
    assert main(words) == 2
    line = capsys.readouterr().err
    assert meant in line and (meant or "did you mean" not in line)
    assert "choose from" in line and line.count("\n") == 1
