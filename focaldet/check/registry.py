"""What a check is, and all of them by id.

A check is a function from a `DataSet`, or from each `Split`, to findings, in the module of its
family; what is registered with it says what the findings mean and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import NamedTuple

from .dataset import DataSet, Finding, Split

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)

Find = Callable[[DataSet], Iterable[Finding]]
FindInSplit = Callable[[Split], Iterable[Finding]]


class Check(NamedTuple):
    id: str
    severity: str
    means: str  # a sentence
    advice: str  # a sentence: what to do
    reads_images: bool
    find: Find


CHECKS: dict[str, Check] = {}


def check(
    id: str, severity: str, means: str, advice: str, *, reads_images: bool = False
) -> Callable[[Find], Find]:
    """Registers the function below."""

    def register(find: Find) -> Find:
        CHECKS[id] = Check(id, severity, means, advice, reads_images, find)
        return find

    return register


def check_split(
    id: str, severity: str, means: str, advice: str
) -> Callable[[FindInSplit], FindInSplit]:
    """Registers the function below, which is for one split."""

    def register(find: FindInSplit) -> FindInSplit:
        check(id, severity, means, advice)(
            lambda data: chain.from_iterable(find(split) for split in data.splits)
        )
        return find

    return register
