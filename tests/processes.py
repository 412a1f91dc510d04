"""Several processes as ranks of one run, each with a function of a test to call."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ranks are forked from a process that has imported what takes long, and has done nothing else.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch.distributed", "pytest", "focaldet.distributed"])

GREETING = re.compile(r"^\[Gloo\] Rank \d+ is connected to .*\n", re.MULTILINE)  # torch 2.10's


@dataclass
class Ended:
    """How a rank did."""

    code: int  # as a shell has it, negative for a signal
    output: str  # stdout and stderr
    seconds: float  # until it ended, from the start of all
    at: float  # time.monotonic() then

    def __str__(self) -> str:
        return f"exit code {self.code} after {self.seconds:.1f} s\n{self.output}"


def run_ranks(
    function: Callable[..., None],
    *args: Any,
    world: int = 2,
    seconds: float = 120,
    frozen: int | None = None,
    **environ: str,
) -> list[Ended]:
    """Calls a function of a test's file in `world` processes, with torchrun's environment.

    They end as the command line does: an error of focaldet's is one line, and exit code 2. What
    runs after `seconds` is killed, and fails the test; so is rank `frozen` when the others are
    through, and does not.
    """
    _start_server()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        ranks = []
        for rank in range(world):
            own = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            } | environ
            output = Path(folder, str(rank))
            what = (function.__code__.co_filename, function.__qualname__, args)
            ranks.append((SERVER.Process(target=_be_rank, args=(*what, own, output)), output))
        for process, _ in ranks:
            process.start()
        ended = {} if frozen is None else {frozen: seconds}
        while len(ended) < world and time.monotonic() < start + seconds:
            for rank, (process, _) in enumerate(ranks):
                if rank not in ended and process.exitcode is not None:
                    ended[rank] = time.monotonic() - start
            time.sleep(0.02)
        for process, _ in ranks:
            process.kill()
            process.join()
        results = [
            Ended(process.exitcode or 0, GREETING.sub("", output.read_text()), after, start + after)
            for rank, (process, output) in enumerate(ranks)
            for after in [ended.get(rank, seconds)]
        ]
    late = [rank for rank in range(world) if rank not in ended]
    assert not late, f"ranks {late} still ran after {seconds} s\n" + told(results)
    return results


def told(ranks: list[Ended]) -> str:
    """What all ranks said, for a test that failed."""
    return "\n".join(f"--- rank {number}: {rank}" for number, rank in enumerate(ranks))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@functools.cache
def _start_server() -> None:
    """Its imports take half a minute on a machine that is busy: they count for no rank."""
    first = SERVER.Process(target=int)
    first.start()
    first.join()


def _be_rank(
    file: str, function: str, args: tuple[Any, ...], environ: dict[str, str], output: Path
) -> None:
    with output.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.update(environ)

    import torch

    from focaldet.errors import EndedElsewhere, UserError

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("ranks_of_a_test", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        getattr(module, function)(*args)
    except EndedElsewhere:
        sys.exit(2)
    except UserError as error:
        print(f"focaldet: error: {error}")
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
