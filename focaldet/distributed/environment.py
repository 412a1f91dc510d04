"""Where this process stands among those of the run, as torchrun tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UserError

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
ADVICE = "start the processes with torchrun, which sets it"


@dataclass(frozen=True)
class Place:
    """This process, and where the run's store is to be found."""

    rank: int
    world: int
    local_rank: int  # among the processes of this machine
    host: str
    port: int
    served: bool  # by torchrun; else rank 0 has to
    attempt: int  # how many times torchrun has started the processes anew

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def keeps_store(self) -> bool:
        return self.rank == 0 and not self.served


def read_environment(environ: Mapping[str, str] = os.environ) -> Place | None:
    """The place that the variables of torchrun say, and None where none of them is set.

    Raises `UserError` for one that is missing or makes no sense.
    """
    if "RANK" not in environ and "WORLD_SIZE" not in environ:
        return None
    world = _number(environ, "WORLD_SIZE", 1)
    return Place(
        rank=_number(environ, "RANK", 0, world - 1),
        world=world,
        local_rank=_number(environ, "LOCAL_RANK", 0, world - 1),
        host=_text(environ, "MASTER_ADDR"),
        port=_number(environ, "MASTER_PORT", 1, 65535),
        served=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=_number({RESTARTS: "0", **environ}, RESTARTS, 0),
    )


def _text(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        there = " and ".join(n for n in ("RANK", "WORLD_SIZE") if environ.get(n))
        raise UserError(f"{name} is not set, but {there}; {ADVICE}, or unset them")
    return environ[name]


def _number(environ: Mapping[str, str], name: str, least: int, most: int | None = None) -> int:
    text = _text(environ, name)
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name}={text}: expected a whole number {wanted}; {ADVICE}")
    return value
