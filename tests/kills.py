"""`python tests/kills.py --kills 200`: training that is killed at random moments, and resumed.

A run is killed (SIGKILL), resumed, killed again, until it ends; then its weights, their average,
the optimizer, the scores and the metrics must equal, to the bit, those of a run that nobody
disturbed, and what TensorBoard shows, where it is installed, the metrics.

Of several processes all are killed, or one: then the others must end by themselves.
Every fourth kill falls at any time, the others into a step, a save, an evaluation. Counts them.
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import torch
from run_folder import EVENTS, check_whole, compare, compare_events, result

from focaldet.checkpoint import LAST, PREVIOUS
from focaldet.data import CocoDataset, eval_transform, generate_scenes, train_transform
from focaldet.distributed import join
from focaldet.models import RetinaNet
from focaldet.ops import AnchorGrid
from focaldet.train import Recipe, loop, train
from focaldet.train.run import Run

SIZE = 64  # pixels
# The AP rises in the second epoch and falls in the third: the best weights are not the last.
RECIPE = Recipe(epochs=4, batch_size=4, lr=5e-3, ema=0.9, save_every=3, tensorboard=EVENTS)
IMAGES = 14  # in 4 steps an epoch, of which the last has two images
PATIENCE = 60  # seconds in which the processes that were left must end

# What a process is doing, told to the harness through a byte that they share.
PHASES = ("starting", "between", "step", "save", "evaluation", "ending")
# What a kill waits for: None, for any time; or the start of one of so many such phases, and then
# for up to so many seconds, which is about as long as it lasts.
AIMS = (None, ("step", 12, 0.05), ("save", 5, 0.01), ("evaluation", 3, 0.1))


class Work:
    """What is trained, on what: made before the processes are."""

    def __init__(self, root: Path) -> None:
        generate_scenes(root / "scenes", images=IMAGES, seed=1, size=SIZE, objects=(2, 4))
        files = root / "scenes" / "instances.json", root / "scenes" / "images"
        self.train_set = CocoDataset(*files, transform=train_transform(SIZE))
        self.val_set = CocoDataset(*files, transform=eval_transform(SIZE))
        torch.manual_seed(3)
        grid = AnchorGrid.torchvision(sizes=[8, 16, 32, 64, 128])
        options = {"width": 16, "fpn_channels": 16, "head_depth": 1, "anchor_grid": grid}
        self.model = RetinaNet(3, "resnet18", min_size=SIZE, max_size=SIZE, **options)

    def train(self, out: Path, recipe: Recipe, phase: Phase) -> None:
        there = any((out / name).exists() for name in (LAST, PREVIOUS))
        with join("cpu") as ranks, phase.told():
            data = self.train_set, self.val_set
            train(self.model, *data, out, recipe, ranks=ranks, resume=there)


class Phase:
    """Where one process is."""

    def __init__(self) -> None:
        self.byte = mmap.mmap(-1, 1)  # shared with the processes that are forked

    @property
    def name(self) -> str:
        return PHASES[self.byte[0]]

    def set(self, name: str) -> None:
        self.byte[0] = PHASES.index(name)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tells which of the parts of training is running."""
        parts = ((Run, "_step", "step"), (loop, "evaluate_model", "evaluation"),
                 (loop, "save_generation", "save"), (loop, "save_checkpoint", "save"))  # fmt: skip

        def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **more: Any) -> Any:
                self.set(name)
                try:
                    return real(*args, **more)
                finally:
                    self.set("between")

            return call

        patches = [mock.patch.object(o, n, wrapped(p, getattr(o, n))) for o, n, p in parts]
        for patch in patches:
            patch.start()
        yield
        self.set("ending")


# Processes --------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """The processes of one attempt at a run, each the head of a group with its workers."""

    processes: list[int]
    phases: list[Phase]

    @classmethod
    def start(cls, work: Work, out: Path, recipe: Recipe, world: int) -> Attempt:
        port = _free_port()
        phases = [Phase() for _ in range(world)]
        found = [_fork(work, out, recipe, phases[rank], rank, world, port) for rank in range(world)]
        return cls(found, phases)

    def ended(self) -> list[int | None]:
        """The exit code of each process, negative by a signal; None where it runs."""
        codes: list[int | None] = []
        for process in self.processes:
            info = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            running = info is None
            killed = not running and info.si_code != os.CLD_EXITED
            codes.append(None if running else -info.si_status if killed else info.si_status)
        return codes

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> list[int | None]:
        """Until all have ended, the time is over, or something has happened."""
        end = time.perf_counter() + seconds
        while None in self.ended() and time.perf_counter() < end and not until():
            time.sleep(0.0003)
        return self.ended()

    def close(self) -> None:
        """Ends whatever is left of it, which a kill leaves: the workers that load images."""
        for process in self.processes:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _fork(
    work: Work, out: Path, recipe: Recipe, phase: Phase, rank: int, world: int, port: int
) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if world > 1:
            os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{world}",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}  # fmt: skip
        work.train(out, recipe, phase)
        code = 0
    except BaseException as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# Kills ------------------------------------------------------------------------------------------


@dataclass
class Series:
    """Runs of one configuration, killed again and again, and what they must come to."""

    work: Work
    root: Path
    recipe: Recipe
    world: int
    random: Random
    runs: int = 0

    def __post_init__(self) -> None:
        self.kills: Counter[str] = Counter()  # by phase of rank 0
        self.root.mkdir()
        start = time.perf_counter()
        self.finish(self.root / "undisturbed")
        self.seconds = time.perf_counter() - start
        self.expected = result(self.root / "undisturbed")

    def finish(self, out: Path) -> None:
        attempt = Attempt.start(self.work, out, self.recipe, self.world)
        codes = attempt.wait(10 * PATIENCE)
        attempt.close()
        assert codes == [0] * self.world, f"exit codes {codes}: {last_line(out)}"

    def kill(self, count: int) -> None:
        """Kills so often, and compares each run that ends, the last one too."""
        while self.kills.total() < count:
            out = self.root / f"run{self.runs}"
            while self.kills.total() < count:
                if phase := self.kill_once(out, AIMS[self.kills.total() % len(AIMS)]):
                    self.kills[phase] += 1
                    check_whole(out)
                else:
                    break
            self.finish(out)
            compare(result(out), self.expected, out)
            compare_events(out)
            self.runs += 1

    def kill_once(self, out: Path, aim: tuple[str, int, float] | None) -> str | None:
        """The phase in which rank 0 was when processes were killed; None if all had ended before.
        `aim`: one of AIMS."""
        attempt = Attempt.start(self.work, out, self.recipe, self.world)
        try:
            first = attempt.phases[0]
            if aim:
                name, most, seconds = aim
                for _ in range(self.random.randint(1, most)):
                    attempt.wait(PATIENCE, until=lambda: first.name != name)
                    attempt.wait(PATIENCE, until=lambda: first.name == name)
                attempt.wait(self.random.uniform(0, seconds))
            else:
                attempt.wait(self.random.uniform(0, 0.7 * self.seconds))
            ranks = self.random.choice([[rank] for rank in range(self.world)] + [range(self.world)])
            phase = first.name
            for rank in ranks:
                os.kill(attempt.processes[rank], signal.SIGKILL)
            codes = attempt.wait(PATIENCE)
        finally:
            attempt.close()
        if all(code == 0 for code in codes):
            return None
        over = phase == "ending"  # nobody waits for anybody any more
        for rank, code in enumerate(codes):
            left = f"rank {rank}, of {self.world} of which {[*ranks]} were killed in {phase}"
            assert code is not None, f"{left}, hung: {last_line(out)}"
            assert code != 0 or rank in ranks or over, f"{left}, ended as if all were well"
        return phase


def last_line(out: Path) -> str:
    return out.with_suffix(".log").read_text().strip().rpartition("\n")[2]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="in all, shared out")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 4])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder for the runs and their logs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a forked process has none of the others
    cases = [(world, workers) for world in args.processes for workers in args.workers]
    if args.keep:
        args.keep.mkdir()
    with nullcontext(args.keep) if args.keep else tempfile.TemporaryDirectory() as folder:
        root, total = Path(folder), 0
        work = Work(root)
        for number, (world, workers) in enumerate(cases):
            count = args.kills * (number + 1) // len(cases) - total
            total += count
            name, start = f"{world}-processes-{workers}-workers", time.perf_counter()
            recipe = replace(RECIPE, workers=workers)
            series = Series(work, root / name, recipe, world, Random(f"{args.seed} {name}"))
            series.kill(count)
            fell = ", ".join(f"{series.kills[phase]} in {phase}" for phase in PHASES)
            print(
                f"{name}: {count} kills ({fell}), {series.runs} runs, all equal to the undisturbed "
                f"one; {time.perf_counter() - start:.0f} s", flush=True,
            )  # fmt: skip
    print(f"{total} kills of seed {args.seed}, each resumed to the same bits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
