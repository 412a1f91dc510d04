"""The commands of the pages: how a test runs them, or where they run instead."""

from __future__ import annotations

import shlex

# Runs are cut short: what a page shows is run with these words behind it, of which the last count.
CUT = {
    "train": "--size 64 --epochs 1 --batch-size 2 --workers 0",
    "evaluate": "--workers 0",
}

# Where CI runs what takes long or changes the environment: a text that .ci/run must contain.
IN_CI = {
    "focaldet demo": "focaldet demo",
    "pip install .": "pip install -v .",
    "pip install '.[test]'": 'pip install -q ".[test]"',
    "pytest": "\npytest\n",
    "python tests/sanitize.py": "python tests/sanitize.py",
    "python -m benchmarks": "python -m benchmarks --quick",
    "python -m benchmarks.bars.loss": "python -m benchmarks.bars.loss --quick",
    "python -m benchmarks.bars.suppression": "python -m benchmarks.bars.suppression --quick",
    "python -m benchmarks.bars.end_to_end": "python -m benchmarks.bars.end_to_end --quick",
    "python -m benchmarks.bars.drop_in": "python -m benchmarks.bars.drop_in --quick",
    "python -m benchmarks --compare old.json new.json": "python -m benchmarks --compare",
    "python -m benchmarks.tables": "python -m benchmarks.tables --check",
}

# What nobody runs for the page's sake, and why.
NOT_RUN = {
    "bash benchmarks/gpu.sh": "needs a GPU; tests/test_gpu_command.py runs it without",
}


def elsewhere(words: list[str], ci: str) -> bool:
    """Whether the command is run by CI, or not at all; AssertionError if CI does not run it."""
    text = shlex.join(words)
    if text in IN_CI:
        assert IN_CI[text] in ci, f".ci/run does not run it: no {IN_CI[text]!r} there"
    return text in IN_CI or text in NOT_RUN


def shortened(words: list[str]) -> list[str]:
    """The arguments of a command `focaldet ...`, with those that cut it short."""
    return [*words[1:], *shlex.split(CUT.get(words[1], ""))] if len(words) > 1 else []


def outputs(words: list[str]) -> list[str]:
    """What the command writes."""
    return [value for option, value in zip(words, words[1:], strict=False) if option == "--out"]
