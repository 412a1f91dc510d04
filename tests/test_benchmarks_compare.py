"""--compare tells a change from noise, and says what it cannot compare."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks")
FACTS = {
    "cpu": "x",
    "cores": 2,
    "gpu": None,
    "device": "cpu",
    "dtype": "float32",
    "torch": "2.14.1",
}
COSTS = {"focaldet": 1.0, "torchvision": 10.0, "copy": 0.1}


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def result(
    path: Path,
    seed: int,
    slower: dict[str, float] | None = None,
    cases: int = 20,
    machine: float = 1.0,
    **facts: Any,
) -> Path:
    """Nine rounds of each case on a busy machine: neighbours slow a round down by up to a half for
    all alike, and a provider by up to a fifth."""
    noise, rows = random.Random(seed), []
    for case in range(cases):
        rounds = [machine * noise.uniform(1.0, 1.5) for _ in range(9)]
        for provider, cost in COSTS.items():
            cost *= (slower or {}).get(provider, 1.0) if case == 0 else 1.0
            seconds = [1e-3 * cost * factor * noise.uniform(1.0, 1.2) for factor in rounds]
            row = {"op": "nms", "case": f"case {case}", "provider": provider, "moved": 8}
            rows.append(row | {"seconds": seconds})
    path.write_text(json.dumps({"facts": FACTS | facts, "rows": rows}))
    return path


def compared(old: Path, new: Path, *options: str) -> int:
    return part("__main__").main(["--compare", str(old), str(new), *options])


def section(out: str, title: str) -> list[str]:
    """The lines under a title."""
    blocks = [block.splitlines() for block in out.split("\n\n")]
    return next((lines[1:] for lines in blocks if lines[0] == title), [])


@pytest.mark.parametrize("options", [[], ["--ratios"]])
def test_noise_is_no_change(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = result(tmp_path / "old.json", 0)
    for seed in range(1, 6):
        assert compared(old, result(tmp_path / "new.json", seed), *options) == 0
        out = capsys.readouterr().out
        assert "20 of 20 rows of focaldet as before" in out
        assert not section(out, "slower") and not section(out, "faster")


@pytest.mark.parametrize("options", [[], ["--ratios"]])
def test_twice_the_time_is_slower_and_half_is_faster(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = result(tmp_path / "fast.json", 0)
    slow = result(tmp_path / "slow.json", 1, {"focaldet": 2.0})
    assert compared(fast, slow, *options) == 1
    (line,) = section(capsys.readouterr().out, "slower")
    assert line.endswith("case 0: focaldet")
    assert float(line.split("x")[0]) == pytest.approx(2, rel=0.25)
    assert compared(slow, fast, *options) == 0
    (line,) = section(capsys.readouterr().out, "faster")
    assert line.endswith("case 0: focaldet")


def test_a_margin_decides_what_counts(tmp_path: Path) -> None:
    old = result(tmp_path / "old.json", 0)
    new = result(tmp_path / "new.json", 1, {"focaldet": 2.0})
    assert compared(old, new, "--margin", "0.1") == 1
    assert compared(old, new, "--margin", "1.5") == 0


def test_a_peer_that_gets_slower_is_no_failure(tmp_path: Path) -> None:
    old = result(tmp_path / "old.json", 0)
    assert compared(old, result(tmp_path / "new.json", 1, {"torchvision": 3.0})) == 0


def test_another_machine_is_compared_by_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = result(tmp_path / "old.json", 0)
    new = result(tmp_path / "new.json", 1, machine=4.0, cpu="y", torch="2.15.0")
    assert compared(old, new) == 0
    out = capsys.readouterr().out
    assert "cpu x -> y; torch 2.14.1 -> 2.15.0" in out and "by its peers'" in out
    new = result(tmp_path / "new.json", 1, {"focaldet": 2.0}, machine=4.0, cpu="y")
    assert compared(old, new) == 1
    new = result(tmp_path / "new.json", 1, machine=4.0)  # the same by name
    assert compared(old, new) == 1


def test_new_gone_and_failing_cases_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = result(tmp_path / "few.json", 0, cases=1)
    more = result(tmp_path / "more.json", 1, cases=2)
    assert compared(few, more) == 0
    out = capsys.readouterr().out
    assert "  case 1: focaldet" in section(out, "new")
    assert compared(more, few) == 0
    assert "  case 1: focaldet" in section(capsys.readouterr().out, "gone")
    found = json.loads(more.read_text())
    found["rows"][3] |= {"seconds": [], "note": "disagrees with reference"}
    more.write_text(json.dumps(found))
    assert compared(result(tmp_path / "old.json", 0), more) == 1
    lines = section(capsys.readouterr().out, "timed no longer")
    assert lines == ["  case 1: focaldet: disagrees with reference"]


def test_rows_differ_by_way_and_cache(tmp_path: Path) -> None:
    old = result(tmp_path / "old.json", 0, cases=1)
    found = json.loads(old.read_text())
    for row in list(found["rows"]):
        slow = [9 * seconds for seconds in row["seconds"]]
        found["rows"] += [row | {"way": "forward", "seconds": slow}, row | {"cache": "cold"}]
    old.write_text(json.dumps(found))
    assert compared(old, old, "--margin", "0") == 0


def test_the_limit_is_a_peer(tmp_path: Path) -> None:
    found = {"facts": FACTS, "rows": []}
    for path, seconds in (("old.json", 1.0), ("new.json", 3.0)):
        row = {"op": "nms", "case": "a case", "provider": "focaldet", "moved": 8}
        row |= {"seconds": [seconds] * 5, "limit": [0.5] * 5}
        (tmp_path / path).write_text(json.dumps(found | {"rows": [row]}))
    assert compared(tmp_path / "old.json", tmp_path / "new.json", "--ratios") == 1


def test_bounds_hold_the_factor() -> None:
    bounds = part("compare").bounds
    assert bounds([1.0] * 9, [2.0] * 9) == (2, 2)
    noise = random.Random(0)
    for _ in range(20):
        old, new = ([noise.lognormvariate(0, 0.2) for _ in range(9)] for _ in range(2))
        low, high = bounds(old, [3 * value for value in new])
        assert 1.5 < low < 3 < high < 6
    assert bounds([1.0, 2.0], [4.0, 6.0]) == (2, 6)  # so few cannot tell more


def test_the_fastest_round_alone_is_no_change(tmp_path: Path) -> None:
    """One lucky round in the old result: the others are as before."""
    old = result(tmp_path / "old.json", 0, cases=1)
    found = json.loads(old.read_text())
    found["rows"][0]["seconds"][3] /= 4
    old.write_text(json.dumps(found))
    assert compared(old, result(tmp_path / "new.json", 1, cases=1)) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected what `python -m benchmarks --json` writes"),
        ("[]", "expected what `python -m benchmarks --json` writes"),
        ('{"facts": {}, "rows": []}', "expected what `python -m benchmarks --json` writes"),
        (json.dumps({"facts": FACTS, "rows": [{"op": "a"}]}), "missing"),
        (json.dumps({"facts": FACTS, "rows": []}), "no case in common"),
        (json.dumps({"facts": FACTS | {"dtype": "float16"}, "rows": []}), "float32 and float16"),
        (json.dumps({"facts": FACTS | {"device": "cuda"}, "rows": []}), "device cpu and cuda"),
        (None, "No such file"),
    ],
)
def test_what_cannot_be_compared_gets_one_line(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.json"
    if content is not None:
        new.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        compared(result(tmp_path / "old.json", 0), new)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("margin", ["-1", "much", "nan", "inf"])
def test_a_margin_is_a_number(margin: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        compared(Path("a"), Path("b"), "--margin", margin)
    assert stopped.value.code == 2
    assert "expected a number of at least 0" in capsys.readouterr().err
