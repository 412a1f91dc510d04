"""What is wrong with the form of a data set, as its readers say it.

A reader reports every flaw. Where that returns, what has the flaw is left out and reading goes on,
so that a check (`focaldet.check`) finds all of them by the rules that a training run ends by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ..errors import UserError

FILE = "annotation-file"
ENTRY = "entry-form"
BOX = "box-form"
ID = "id-twice"
IMAGE = "unknown-image"
CLASS = "unknown-class"
LISTED = "image-listed-twice"
NO_SIZE = "image-without-size"  # where no annotation tells


class Flaw(NamedTuple):
    check: str  # the id of the check that it fails
    message: str  # a line, which says where by itself
    file: str | None = None  # of the image that it is about, if of one, as the table has it
    annotation: int | None = None  # as `Table.object_ids` has it


Report = Callable[[Flaw], object]


def refuse(flaw: Flaw) -> NoReturn:
    """Ends the reading with the first flaw."""
    raise UserError(flaw.message)
