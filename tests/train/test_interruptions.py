"""What ends a run from outside: it says so, loses nothing, and goes on with the same bits."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_ranks, told
from tiny_runs import SIZE, dataset, tiny_model, without_clocks
from torch import Tensor

from focaldet import evaluate
from focaldet.checkpoint import LAST, load_checkpoint
from focaldet.data import generate_scenes
from focaldet.distributed import join
from focaldet.errors import UserError
from focaldet.train import Recipe, train
from focaldet.train.run import Run
from focaldet.train.update import Update


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    generate_scenes(folder, images=7, seed=1, size=SIZE, objects=(3, 5))
    return folder


def run(
    scenes: Path,
    out: Path,
    resume: bool = False,
    dtype: torch.dtype = torch.float32,
    norm: str = "frozen",
    **recipe: Any,
) -> dict:
    """Nine steps, in whatever processes there are."""
    model = tiny_model(dtype, norm=norm)
    train_set, val_set = dataset(scenes, True), dataset(scenes, False)
    settings = Recipe(**{"epochs": 3, "batch_size": 3, "workers": 0} | recipe)
    with join("cpu") as ranks:
        return train(model, train_set, val_set, out, settings, ranks=ranks, resume=resume)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Weights, optimizer and all."""
    weights, _, state = load_checkpoint(folder / LAST, training=True)
    moments = state["optimizer"]["state"]
    return weights | {f"{n}/{key}": t for n, entry in moments.items() for key, t in entry.items()}


def at_call(
    number: int, real: Callable[..., Any], action: Callable[[], None]
) -> Callable[..., Any]:
    calls: list[int] = []

    def call(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            action()
        return real(*args, **more)

    return call


def ask_to_end() -> None:
    """Twice, as where torchrun passes on what its processes have been sent, too."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("owner", "name", "call", "step"),
    [
        (Run, "_step", 2, 2),
        (Run, "_step", 6, 6),  # the last of an epoch, which is not evaluated any more
        (evaluate, "detect_batch", 2, 3),
    ],
    ids=["in a step", "in the last step of an epoch", "in an evaluation"],
)
def test_sigterm_saves_and_ends(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
    call: int,
    step: int,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    scores = run(scenes, tmp_path / "whole", ema=0.9)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(owner, name, at_call(call, getattr(owner, name), ask_to_end))
        run(scenes, tmp_path / "cut", ema=0.9)
    assert end.value.code == 0
    assert f"stopped by SIGTERM after step {step}; --resume goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert load_checkpoint(tmp_path / "cut" / LAST, training=True)[2]["step"] == step

    assert run(scenes, tmp_path / "cut", resume=True, ema=0.9) == scores
    whole, cut = (tensors_of(tmp_path / name) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
    assert without_clocks(tmp_path / "whole") == without_clocks(tmp_path / "cut")


def test_checkpoints_within_an_epoch(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "_step", at_call(6, Run._step, killed))
        run(scenes, tmp_path, save_every=2)
    assert load_checkpoint(tmp_path / LAST, training=True)[2]["step"] == 4
    run(scenes, tmp_path, resume=True)  # how often it saves may change
    assert [r["step"] for r in without_clocks(tmp_path) if "lr" in r] == list(range(1, 10))


def test_another_number_of_processes_goes_on_with_the_same_steps(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(scenes, tmp_path / "whole", dtype=torch.float64, optimizer="sgd")
    ranks = run_ranks(two_steps, scenes, tmp_path / "cut")
    assert all(rank.code == 0 for rank in ranks), told(ranks)
    capsys.readouterr()
    run(scenes, tmp_path / "cut", resume=True, dtype=torch.float64, optimizer="sgd", accumulate=2)
    told_of = capsys.readouterr().err
    changed = "processes: 2 before, 1 now, accumulate: 1 before, 2 now"
    assert f"{changed}; the steps stay the same, but for rounding" in told_of
    whole, cut = (tensors_of(tmp_path / name) for name in ("whole", "cut"))
    for name, tensor in whole.items():
        assert (cut[name] - tensor).norm() <= 1e-12 * tensor.norm(), name


def two_steps(scenes: Path, out: Path) -> None:
    Run._step = at_call(2, Run._step, ask_to_end)
    run(scenes, out, dtype=torch.float64, optimizer="sgd")


@pytest.mark.parametrize(
    ("norm", "before", "now", "told_of"),
    [
        ("frozen", {}, {}, ""),
        ("batch", {}, {"accumulate": 2}, "accumulate: 1 before, 2 now; BatchNorm"),
        ("batch", {"sync_norm": True}, {"accumulate": 3}, "accumulate: 1 before, 3 now; BatchNorm"),
    ],
)
def test_other_shares_of_a_batch_are_told_of(
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    norm: str,
    before: dict,
    now: dict,
    told_of: str,
) -> None:
    run(scenes, tmp_path, norm=norm, epochs=1, **before)
    capsys.readouterr()
    run(scenes, tmp_path, resume=True, norm=norm, epochs=1, **before | now)
    told = capsys.readouterr().err
    assert told.startswith(f"focaldet: {told_of}") if told_of else not told


def test_out_of_memory_names_the_batch(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much() -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(Update, "__call__", at_call(2, Update.__call__, too_much))
    with pytest.raises(UserError) as error:
        run(scenes, tmp_path)
    text = str(error.value)
    assert text.startswith("out of memory in step 2 (rank 0): 3 images of up to 64 x 64 pixels in ")
    assert text.count(".png") == 3 and "--accumulate" in text and "\n" not in text


def test_out_of_memory_on_an_empty_share_is_told_as_such(scenes: Path, tmp_path: Path) -> None:
    ranks = run_ranks(too_much_without_images, scenes, tmp_path)
    assert ranks[1].code == 2 and "(rank 1): 0 images of up to 0 x 0" in ranks[1].output, told(
        ranks
    )


def too_much_without_images(scenes: Path, out: Path) -> None:
    if os.environ["RANK"] == "1":
        Update.__call__ = at_call(1, Update.__call__, lambda: torch.empty(1 << 60))
    run(scenes, out, batch_size=1)


def test_out_of_memory_in_the_evaluation(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much() -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(evaluate, "detect_batch", at_call(1, evaluate.detect_batch, too_much))
    named = r"evaluation after step 3 \(rank 0\): 3 images at once; a higher --accumulate takes"
    with pytest.raises(UserError, match=named):
        run(scenes, tmp_path)


def test_a_full_disk_keeps_the_checkpoint_before(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = run(scenes, tmp_path / "whole")
    import focaldet.files

    def full() -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        # In every epoch the best weights, if they are, the state, and the curves are synced.
        patch.setattr(focaldet.files, "_sync", at_call(8, focaldet.files._sync, full))
        run(scenes, tmp_path / "cut")
    assert not list((tmp_path / "cut").glob(".*")), "nothing half written is left"
    assert run(scenes, tmp_path / "cut", resume=True) == scores
    whole, cut = (tensors_of(tmp_path / name) for name in ("whole", "cut"))
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []


def test_a_trace_of_a_few_steps(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path, profile=True, batch_size=1, epochs=2, eval_every=2)
    trace = json.loads((tmp_path / "trace.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert any("retinanet_loss" in name for name in names)
