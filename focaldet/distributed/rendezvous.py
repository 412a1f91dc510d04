"""How the processes of a run find each other: through a store, which one of them keeps."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
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


@dataclass
class Meeting:
    """Of all ranks, once each time that they are started."""

    name: str  # a prefix of keys that no other meeting has
    again: bool  # the ranks of this run have been started before
    present: list[str]  # who, by rank: each start of a process has a name of its own


def arrive(
    store: PrefixStore, place: Place, deadline: float, greet: Callable[[Meeting], None]
) -> Meeting:
    """Until all ranks have come, which a UserError names where some have not.

    torchrun's store outlives the ranks, with all that was said there; and on several machines each
    torchrun counts the restarts of its own processes alone. So rank 0 calls a meeting of those whom
    it finds, and calls again when one of them turns out to be another one. Who is called is there:
    `greet` gets the meeting, before the others are told.
    """
    own = f"{place.attempt} {uuid.uuid4().hex}"
    ranks = range(place.world)
    meeting = None
    try:
        again = store.check(["call"])
        store.set(_came(place.rank), own)
        while True:
            if store.get(_came(place.rank)).decode() != own:
                raise UserError(
                    f"rank {place.rank} of {place.world} has come to {place.address} twice; "
                    "expected every process of the run to have its own RANK"
                )
            missing = [rank for rank in ranks if not store.check([_came(rank)])]
            if not missing and place.rank == 0:
                _call(store, [store.get(_came(rank)).decode() for rank in ranks], again)
            called = _called(store)
            if called and own in called.present:
                if called != meeting:
                    meeting = called
                    greet(meeting)
                    store.set(f"{meeting.name}/{_came(place.rank)}", own)
                missing = [r for r in ranks if not store.check([f"{called.name}/{_came(r)}"])]
                if not missing:
                    return called
            if time.monotonic() > deadline:
                raise _incomplete(place, missing or [0])
            time.sleep(0.05)
    except RuntimeError as error:
        raise UserError(
            f"rank {place.rank} of {place.world}: the process that keeps the run's store, at "
            f"{place.address}, is gone; what it printed says why"
        ) from error


def _came(rank: int) -> str:
    return f"came/{rank}"


def _called(store: PrefixStore) -> Meeting | None:
    """The latest meeting, perhaps of an earlier start."""
    return Meeting(**json.loads(store.get("call"))) if store.check(["call"]) else None


def _call(store: PrefixStore, present: list[str], again: bool) -> None:
    """Calls a meeting of those who are present, unless that is the latest."""
    latest = _called(store)
    if latest is None or latest.present != present:
        again = again or any(not own.startswith("0 ") for own in present)
        store.set("call", json.dumps(asdict(Meeting(uuid.uuid4().hex, again, present))))


def _incomplete(place: Place, missing: list[int]) -> UserError:
    if place.keeps_store:
        time.sleep(1)  # the others, whose time is up, too, need the store to say the same
    names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    return UserError(
        f"rank {place.rank} of {place.world}: only {place.world - len(missing)} have come to "
        f"{place.address}, not rank {names}; are they all started, with the same MASTER_ADDR, "
        "MASTER_PORT and WORLD_SIZE, each with a RANK of its own, and within --timeout?"
    )
