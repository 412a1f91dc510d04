"""Measures a case: compares the providers' results, then times those that agree, in turns.

A round times every provider once, so that a ratio of times of the same round is free of what
changes from round to round on a machine that is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from textwrap import shorten
from typing import Any

from . import memory
from .case import TOLERANCE, Case, Differentiable, Run, Work, difference
from .clock import WARM, calls_for, clock, first_call, launch_bound, seconds_of
from .inputs import Setup
from .limits import COPY, READ, limit_of
from .report import Row

SLOW = 0.1  # seconds; on the CPU a first call that takes longer is warm-up enough
LONGEST = 4.0  # seconds; rounds of a case end after this, but not before LEAST_ROUNDS
LEAST_ROUNDS = 3
COMPILED = "torch.compile"


@dataclass
class Field:
    """The providers of a case: those to time have a run, others a note that says why not. A note
    beside a run is a remark."""

    runs: dict[str, Run] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, step: Callable[[], Any]) -> Any:
        """What the step gives, or None if it fails, which takes the provider out."""
        try:
            return step()
        except ModuleNotFoundError as error:
            note = f"{error.name} is not installed"
        except Exception as error:  # a peer may lack a dtype or a device, or run out of memory
            note = reason(error)
        self.drop(name, note)
        return None

    def drop(self, name: str, note: str) -> None:
        self.runs.pop(name, None)
        self.notes[name] = note
        memory.release()

    def one_way(self, way: str) -> Field:
        runs = {
            name: run.one_way(way) if isinstance(run, Differentiable) else run
            for name, run in self.runs.items()
        }
        return Field(runs, dict(self.notes))


def reason(error: Exception) -> str:
    if memory.is_exhausted(error):
        return "out of memory"
    text = (str(error).strip() or "no reason given").splitlines()[0]
    return shorten(f"fails: {type(error).__name__}: {text}", 200, placeholder=" ...")


def measure(
    op: str,
    case: Case,
    setup: Setup,
    wanted: Iterable[str],
    rounds: int,
    caches: Sequence[str] = (WARM,),
) -> list[Row]:
    """A row for each way, state of the caches and provider, and what is timed beside them."""
    wanted = set(wanted)
    names = [name for name in case.providers if name in wanted]
    try:
        inputs = case.inputs()
        found = compare(case, inputs, names, setup)
    except Exception as error:
        if not memory.is_exhausted(error):
            raise
        memory.release()
        inputs, found = None, Field({}, dict.fromkeys(names, "out of memory for the inputs"))
    rows: list[Row] = []
    for way in case.ways:
        entered = found.one_way(way)
        peaks = {
            name: entered.attempt(name, partial(memory.taken, run, setup.device))
            for name, run in list(entered.runs.items())
        }
        work = add_beside(entered, case, inputs, way, setup) if entered.runs else None
        for cache in caches:
            lines = {
                name: Row(
                    op,
                    case.name,
                    name,
                    work.moved if work else None,
                    way=way,
                    cache=cache,
                    sizes=dict(case.sizes),
                    operations=work.operations if work else None,
                    peak=peaks.get(name),
                )
                for name in dict.fromkeys([*names, *entered.runs])
            }
            time_in_turns(entered, lines, setup, cache, rounds)
            rows += lines.values()
    return rows


def add_beside(entered: Field, case: Case, inputs: Any, way: str, setup: Setup) -> Work | None:
    """Enters what is timed and not compared; returns the work that memory limits."""
    for name, provider in case.beside.items():
        if (run := entered.attempt(name, partial(provider, inputs))) is not None:
            entered.runs[name] = run
    if (work := case.work(inputs, way)) is not None:
        name, make = limit_of(work, setup.device)
        if (run := entered.attempt(name, make)) is not None:
            entered.runs[name] = run
    return work


def compare(case: Case, inputs: Any, names: Sequence[str], setup: Setup) -> Field:
    """The providers that agree. What the reference says is right, or what focaldet says where the
    reference is left out."""
    found = Field(notes={n: f"left out: {case.skip[n]}" for n in names if n in case.skip})
    results: dict[str, Any] = {}
    for name in names:
        if name in case.skip:
            continue
        run = found.attempt(name, partial(case.providers[name], inputs))
        if run is not None and (first := found.attempt(name, partial(first_call, run))):
            found.runs[name] = run
            results[name], seconds = first
            if name == COMPILED:
                found.notes[name] = f"first call, which compiles: {seconds:.3g} s"
    base = next((name for name in ("reference", "focaldet", *names) if name in results), None)
    for name, result in results.items():
        text = (case.differ or difference)(result, results[base], TOLERANCE[setup.dtype])
        if text:
            found.drop(name, f"disagrees with {base}: {text}")
    return found


def time_in_turns(
    entered: Field, lines: dict[str, Row], setup: Setup, cache: str, rounds: int
) -> None:
    """Fills in the seconds of each round, and what became of each provider."""
    field = Field(dict(entered.runs), dict(entered.notes))
    try:
        ticks = clock(setup.device, cache)
    except Exception as error:
        if not memory.is_exhausted(error):
            raise
        for name in lines:
            field.drop(name, "out of memory for the flush of the caches")
        return conclude(field, lines, setup)
    calls = {
        name: calls_for(once, cache, setup.quick)
        for name, run in entered.runs.items()
        if (once := field.attempt(name, partial(warm_up, run, setup))) is not None
    }
    spent = 0.0
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and spent > LONGEST:
            break
        names = list(field.runs)
        first = turn % len(names) if names else 0  # nobody always follows the same neighbour
        for name in names[first:] + names[:first]:
            seconds = field.attempt(name, partial(ticks, field.runs[name], calls[name]))
            if seconds is not None:
                lines[name].seconds.append(float(f"{seconds:.5g}"))
                spent += seconds * calls[name]
    conclude(field, lines, setup)


def conclude(field: Field, lines: dict[str, Row], setup: Setup) -> None:
    limit = next((lines[name] for name in (COPY, READ) if name in field.runs), None)
    for name, row in lines.items():
        remarks = [field.notes.get(name, "")]
        if name not in field.runs:
            row.seconds = []  # of the rounds before it failed
        elif limit is not None and row is not limit:
            row.limit = list(limit.seconds)
        if name in field.runs and setup.device.type == "cuda":
            remarks.append(remark(setup, field.runs[name]))
        row.note = "; ".join(filter(None, remarks))


def remark(setup: Setup, run: Run) -> str:
    try:
        return launch_bound(setup.device, run, setup.quick)
    except Exception as error:
        if not memory.is_exhausted(error):
            raise
        return ""


def warm_up(run: Run, setup: Setup) -> float:
    """The seconds of one call. On CUDA a first call may be slow because it loads its kernels."""
    seconds = seconds_of(run, 1)
    return seconds_of(run, 1) if setup.device.type == "cuda" or seconds < SLOW else seconds
