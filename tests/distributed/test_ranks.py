"""What ranks do together: sum, maximum, share, first and gather, with every rank's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from processes import run_ranks, told

from focaldet.distributed import ALONE, alone, join
from focaldet.errors import EndedElsewhere


def columns(rank: int) -> dict[str, np.ndarray]:
    """Of other lengths on each rank, none at all on rank 0; strided and of several types."""
    return {
        "ids": np.arange(10 * rank)[::2],
        "boxes": np.full((rank, 4), rank / 3, dtype=np.float32),
        "crowd": np.array([True] * rank),
        "names": np.array(["a" * rank] * rank),
    }


def together() -> None:
    with join("cpu") as ranks:
        assert (ranks.world, ranks.main) == (3, ranks.rank == 0)
        values = torch.tensor([1.0, 10.0], dtype=torch.float64) * (ranks.rank + 1)
        assert ranks.sum(values) is values and values.tolist() == [6.0, 60.0]

        values = torch.tensor([ranks.rank, -ranks.rank])
        assert ranks.maximum(values) is values and values.tolist() == [2, 0]

        assert ranks.share({"of": ranks.rank}) == {"of": 0}
        assert ranks.first(lambda: f"by {ranks.rank}") == "by 0"

        gathered = ranks.gather(columns(ranks.rank))
        assert (gathered is None) == (ranks.rank != 0)
        for rank, found in enumerate(gathered or []):
            for name, values in columns(rank).items():
                assert found[name].dtype == values.dtype
                np.testing.assert_array_equal(found[name], values)


def test_three_ranks_together() -> None:
    ranks = run_ranks(together, world=3)
    assert [(rank.code, rank.output) for rank in ranks] == [(0, "")] * 3, told(ranks)


def fail_first(caught: bool) -> None:
    with join("cpu") as ranks:

        def task() -> None:
            raise OSError("the disk is full")

        try:
            ranks.first(task)
        except Exception as error:
            kind, text = type(error), str(error)
            if not caught:
                raise
        expected = (OSError, "the disk is full") if ranks.main else (EndedElsewhere, "rank 0: OS")
        assert kind is expected[0] and text.startswith(expected[1]), (kind, text)
        assert ranks.first(lambda: 5) == 5, "the run may go on"


def test_a_task_of_rank_0_that_fails_fails_everywhere() -> None:
    ranks = run_ranks(fail_first, True)
    assert [rank.code for rank in ranks] == [0, 0], told(ranks)


def test_one_rank_prints_the_error_of_a_task() -> None:
    first, second = run_ranks(fail_first, False, seconds=40)  # not for the watch's 45 s
    assert "OSError: the disk is full" in first.output and first.code == 1, first
    assert (second.code, second.output) == (2, ""), second


def test_a_process_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.main, str(ranks.device)) == (0, 1, True, "cpu")
        assert ranks.sum(torch.ones(2)).tolist() == [1.0, 1.0]
        assert ranks.maximum(torch.ones(2)).tolist() == [1.0, 1.0]
        assert ranks.share("x") == "x" and ranks.first(lambda: 3) == 3
        assert ranks.gather({"a": np.arange(3)})[0]["a"].tolist() == [0, 1, 2]
        ranks.at(1, "forward")
        with ranks.patient("scoring"):
            pass
    with pytest.raises(ZeroDivisionError):
        ALONE.first(lambda: 1 // 0)
    assert alone().device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_objects_are_not_gathered() -> None:
    with pytest.raises(TypeError, match="masks: expected numbers or fixed-length strings"):
        ALONE.gather({"masks": np.array([{}, []], dtype=object)})
