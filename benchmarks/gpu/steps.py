"""Commands with a time limit whose results are kept in part files, so that a run that was cut off
goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .. import ROOT

PASSED, FAILED, RAN_OUT, NOT_RUN = "passed", "failed", "ran out of time", "not run"
WRAP_UP = 0.1  # of its limit: what an interrupted command gets for writing down what it has

Part = dict[str, Any]  # a status, seconds, the reason if it did not pass, and the figures


def not_run(reason: str) -> Part:
    return {"status": NOT_RUN, "seconds": 0, "reason": reason}


class CannotRun(Exception):
    """Why a step has no result on this machine, although nothing failed."""


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int | None  # its exit code; None: it was stopped
    log: str  # all that it printed
    result: Path  # the file it was told to write

    @property
    def last_words(self) -> str:
        lines = [text for line in self.log.splitlines() if (text := line.strip("= "))]
        return lines[-1] if lines else f"exit code {self.code} and no output"


Figures = tuple[Part, str]  # what a step found, and what is wrong with it, if anything
Command = Callable[[Path], Sequence[str]]  # given the file to write a result to
Reader = Callable[[Outcome], Figures]


@dataclass(frozen=True)
class Step:
    name: str
    limit: float  # seconds
    command: Command
    read: Reader
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: str | None = None  # another step that must have passed
    still_holds: Callable[[Part], bool] = lambda part: True  # is what it made still there?

    def run(self, folder: Path) -> Part:
        result, log = folder / f"{self.name}.result", folder / f"{self.name}.log"
        result.unlink(missing_ok=True)
        start = time.monotonic()
        try:
            code = run(self.command(result), self.limit, log, self.environment)
            figures, fault = self.read(Outcome(code, log.read_text(errors="replace"), result))
        except CannotRun as reason:
            return not_run(str(reason))
        status = FAILED if fault else PASSED
        if code is None:
            status, fault = RAN_OUT, f"after {self.limit:g} s"
        part = {"status": status, "seconds": round(time.monotonic() - start, 1)}
        return part | ({"reason": fault} if fault else {}) | figures


def run(
    command: Sequence[str], limit: float, log: Path, environment: Mapping[str, str]
) -> int | None:
    """The exit code, or None where the limit was reached. A command may start others: all of them
    are interrupted shortly before the limit, as by Ctrl-C, and killed at the limit."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )
        try:
            return process.wait((1 - WRAP_UP) * limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(WRAP_UP * limit)
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _heed_interrupts() -> None:
    """A shell's background command ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Parts:
    """The parts of one run, a file each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, name: str) -> Part | None:
        file = self.folder / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else None

    def finished(self, step: Step) -> Part | None:
        """The part of a step that need not run again."""
        part = self.of(step.name)
        done = part is not None and part["status"] == PASSED and step.still_holds(part)
        return part if done else None

    def renew(self, step: Step) -> Part:
        needed = self.of(step.needs) if step.needs else None
        if step.needs and (needed is None or needed["status"] != PASSED):
            part = not_run(f"{step.needs} did not pass")
        else:
            part = step.run(self.folder)
        file = self.folder / f"{step.name}.json"
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(part))
        draft.replace(file)  # a part is there as a whole or not at all
        return part
