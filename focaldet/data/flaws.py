"""What is wrong with the form of a data set, as its readers say it.

A reader names every flaw to a function of this form: the id of the check that it fails
(`focaldet.check`) and one line. Where that returns, what has the flaw is left out and reading goes
on, so that a check finds all of them by the rules that a training run ends by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from ..errors import UserError

Report = Callable[[str, str], object]  # check, message

FILE = "annotation-file"
ENTRY = "entry-form"
BOX = "box-form"
ID = "id-twice"
IMAGE = "unknown-image"
CLASS = "unknown-class"
LISTED = "image-listed-twice"
NO_SIZE = "image-without-size"  # where no annotation tells


def refuse(check: str, message: str) -> NoReturn:
    """Ends the reading with the first flaw."""
    raise UserError(message)
