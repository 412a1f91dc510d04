"""How the processes of a run find each other: through a store, which one of them keeps."""

from __future__ import annotations

import socket
import threading
import time
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore

from ..errors import UserError
from .environment import Place

# A process serves until its end: another of its runs may come, at the same port.
_served: list[TCPStore] = []


def connect(place: Place, deadline: float, *, keep: bool) -> TCPStore:
    """A new connection to the run's store; `keep`: to one that this process keeps.

    `deadline`, of time.monotonic(), is when a UserError says what is in the way.
    """
    if not keep:
        _await_listener(place, deadline)
    # A stranger at that port may keep torch waiting for ever, hence the thread.
    made: list[TCPStore | Exception] = []
    thread = threading.Thread(
        target=lambda: made.append(_store(place, deadline, keep)), daemon=True
    )
    thread.start()
    thread.join(max(0.1, deadline - time.monotonic()))
    if not made:
        raise UserError(
            f"{place.address} answers, but not as the store of a run; is MASTER_PORT taken by "
            "another program? Choose another one"
        )
    if isinstance(made[0], Exception):
        reason = str(made[0]).splitlines()[0]
        todo = "choose another MASTER_PORT" if "EADDRINUSE" in reason else "see MASTER_ADDR"
        raise UserError(f"rank {place.rank}: no store at {place.address}: {reason}; {todo}")
    if keep:
        _served.append(made[0])
    return made[0]


def _store(place: Place, deadline: float, keep: bool) -> TCPStore | Exception:
    left = timedelta(seconds=max(1.0, deadline - time.monotonic()))
    try:
        return TCPStore(
            place.host,
            place.port,
            is_master=keep,
            timeout=left,
            wait_for_workers=False,
            multi_tenant=True,  # a second run in this process has the first one's server
        )
    except (RuntimeError, ValueError) as error:
        return error


def _await_listener(place: Place, deadline: float) -> None:
    """Until somebody listens there. torch can wait, too, but is loud about it."""
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            socket.create_connection((place.host, place.port), left).close()
            return
        except OSError as error:
            if time.monotonic() + 0.2 > deadline:
                raise UserError(
                    f"rank {place.rank} of {place.world}: nobody answers at {place.address} "
                    f"({error.strerror or error}); is rank 0 started there, are MASTER_ADDR and "
                    "MASTER_PORT the same everywhere, and lets a firewall them through?"
                ) from error
            time.sleep(0.2)


def arrive(store: PrefixStore, place: Place, deadline: float) -> None:
    """Until all ranks have come, which a UserError names where some have not."""
    try:
        if store.add(f"came/{place.rank}", 1) > 1:
            raise UserError(
                f"rank {place.rank} of {place.world} has come to {place.address} twice; expected "
                "every process of the run to have its own RANK"
            )
        missing = list(range(place.world))
        while missing := [rank for rank in missing if not store.check([f"came/{rank}"])]:
            if time.monotonic() > deadline:
                raise _incomplete(place, missing)
            time.sleep(0.05)
    except RuntimeError as error:
        raise UserError(
            f"rank {place.rank} of {place.world}: the process that keeps the run's store, at "
            f"{place.address}, is gone; what it printed says why"
        ) from error


def _incomplete(place: Place, missing: list[int]) -> UserError:
    if place.keeps_store:
        time.sleep(1)  # the others, whose time is up, too, need the store to say the same
    names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    return UserError(
        f"rank {place.rank} of {place.world}: only {place.world - len(missing)} have come to "
        f"{place.address}, not rank {names}; are they all started, with the same MASTER_ADDR, "
        "MASTER_PORT and WORLD_SIZE, and within --timeout?"
    )
