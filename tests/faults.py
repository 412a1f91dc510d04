"""`python tests/faults.py --faults 1000`: what goes wrong with checkpoints, at random places.

A folder is saved to again and again. Each time something fails or is broken; then the newest whole
checkpoint must load, be one of those that may be there, and equal to the bit what was saved as
that one: a wrong one is never taken for right. Counts what came of it, by kind of fault.
"""

from __future__ import annotations

import argparse
import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import torch
from generations import Allowed, Folder

from focaldet.checkpoint import LAST, PREVIOUS

# A call of saving, and which of its times; fsync: of the file, then of the folder.
CALLS = [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2), ("link", 1), ("unlink", 1),
         ("unlink", 2), ("unlink", 3), ("open", 1), ("open", 2), ("posix_fadvise", 1)]  # fmt: skip
NOTHING = "nothing happened"  # there was room, no such call, or saving was over; not counted
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
TMPFS = 1 << 20  # bytes: for three checkpoints and what fills the rest


# Faults -----------------------------------------------------------------------------------------


def file_too_large(folder: Folder) -> Allowed:
    """The system takes a random number of bytes, and refuses more."""
    size = (folder.path / LAST).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (folder.random.randrange(size), hard))
    try:
        folder.save()
    except OSError as error:
        assert error.errno == errno.EFBIG
        return {folder.number: "the one before kept"}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    raise AssertionError("more was written than is allowed")


def disk_full(folder: Folder) -> Allowed:
    """A file system of its own, with a random rest of room."""
    size = (folder.path / LAST).stat().st_size
    free = os.statvfs(folder.path).f_bavail * os.statvfs(folder.path).f_frsize
    filler = folder.path.parent / "filler"
    filler.write_bytes(bytes(free - folder.random.randrange(size)))
    try:
        folder.save()
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return {folder.number: "the one before kept"}
    finally:
        filler.unlink()
    return {folder.number + 1: NOTHING}


def truncated(folder: Folder) -> Allowed:
    os.truncate(folder.path / LAST, folder.random.randrange((folder.path / LAST).stat().st_size))
    return {folder.number - 1: "found, went back"}


def bit_flipped(folder: Folder) -> Allowed:
    def flip(data: bytearray) -> None:
        # As often among the few bytes of the header as among all.
        header = 8 + int.from_bytes(data[:8], "little")
        place = folder.random.randrange(folder.random.choice((header, len(data))))
        data[place] ^= 1 << folder.random.randrange(8)

    folder.damage(flip)
    return {folder.number - 1: "found, went back", folder.number: "harmless"}


def stale_blocks(folder: Folder) -> Allowed:
    """As after a power cut: blocks that never were written, or hold what an older file held."""
    older = (folder.path / PREVIOUS).read_bytes()
    newer = (folder.path / LAST).read_bytes()

    def change(data: bytearray) -> None:
        start = folder.random.randrange(0, len(data), 512)
        end = min(len(data), start + 512 * folder.random.randint(1, 8))
        stale = older[start:end] if folder.random.random() < 0.5 else b""
        data[start:end] = stale.ljust(end - start, b"\0")

    folder.damage(change)
    if (folder.path / LAST).read_bytes() == newer:
        return {folder.number: "harmless"}
    return {folder.number - 1: "found, went back"}


def call_fails(folder: Folder) -> Allowed:
    """A random call to the system gives an error, without or after doing its work."""

    def fail() -> None:
        code = folder.random.choice(ERRORS)
        raise OSError(code, os.strerror(code))

    fate = Interruption(folder.random, fail)
    with fate.upon_calls():
        try:
            folder.save()
        except OSError as error:
            assert error.errno in ERRORS
    return either(folder) if fate.happened else {folder.number + 1: NOTHING}


def killed(folder: Folder) -> Allowed:
    """SIGKILL at a random moment of saving."""
    process = folder.saving()
    time.sleep(folder.random.uniform(0, folder.seconds))
    os.kill(process, signal.SIGKILL)
    return after_kill(folder, process)


def killed_at_a_call(folder: Folder) -> Allowed:
    """SIGKILL right before or after a random call to the system."""
    fate = Interruption(folder.random, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return after_kill(folder, folder.saving(fate.upon_calls()))


def after_kill(folder: Folder, process: int) -> Allowed:
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "saving failed"
        return {folder.number + 1: NOTHING}
    return either(folder)


def either(folder: Folder) -> Allowed:
    return {folder.number: "the one before kept", folder.number + 1: "the new one is there"}


class Interruption:
    """Something that happens before or after one of the calls to the system; the others pass."""

    def __init__(self, random: Random, happen: Callable[[], None]) -> None:
        self.call, self.number = random.choice(CALLS)
        self.before = random.random() < 0.5
        self.happen, self.happened = happen, False

    @contextmanager
    def upon_calls(self) -> Iterator[None]:
        real, calls = getattr(os, self.call), 0

        def call(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self.number:
                return real(*args, **more)
            self.happened = True
            if self.before:
                self.happen()
            result = real(*args, **more)
            if not self.before:
                self.happen()
            return result

        with mock.patch.object(os, self.call, call):
            yield


FAULTS = (file_too_large, disk_full, truncated, bit_flipped, stale_blocks, call_fails, killed,
          killed_at_a_call)  # fmt: skip


# The run ----------------------------------------------------------------------------------------


@contextmanager
def small_file_system(folder: Path) -> Iterator[Path | None]:
    """A tmpfs of TMPFS bytes, or None where this process may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "focaldet-faults", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def no_link(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def inject(count: int, seed: int) -> Counter[tuple[str, str]]:
    """So many faults, the kinds in turns, every other one on a file system without hard links."""
    outcomes: Counter[tuple[str, str]] = Counter()
    with (
        tempfile.TemporaryDirectory() as root,
        small_file_system(Path(root, "small")) as small,
    ):
        random = Random(seed)
        usual = Folder(Path(root, "usual"), random)
        tight = small and Folder(small / "tight", random)
        kinds = [kind for kind in FAULTS if tight or kind is not disk_full]
        if not tight:
            print("no disk_full: mounting a tmpfs is not permitted here; file_too_large stands in")
        turn = -1
        while outcomes.total() < count:
            turn += 1
            kind = kinds[turn % len(kinds)]
            folder = tight if tight and kind is disk_full else usual
            links = turn // len(kinds) % 2 == 0
            try:
                with mock.patch.object(os, "link", os.link if links else no_link):
                    outcome = folder.check(kind(folder))
                    folder.renew()
            except Exception as error:
                raise AssertionError(
                    f"fault {turn} of seed {seed}, {kind.__name__}, hard links {links}: {error}"
                ) from error
            if outcome != NOTHING:
                outcomes[kind.__name__, outcome] += 1
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a forked process has none of the others
    start = time.perf_counter()
    outcomes = inject(args.faults, args.seed)
    for (kind, outcome), times in sorted(outcomes.items()):
        print(f"{kind:18} {outcome:28} {times:5}")
    print(
        f"{outcomes.total()} faults of seed {args.seed}: a whole checkpoint each time, "
        f"no wrong one; {time.perf_counter() - start:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
