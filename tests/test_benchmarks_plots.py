"""Sweeps time what they say, and results become pictures and pages that need nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.usefixtures("benchmarks")
FACTS = {
    "cpu": "A <fast> processor",
    "cores": 2,
    "gpu": None,
    "simd": "avx2",
    "threads": 2,
    "heap": "default",
    "device": "cpu",
    "dtype": "float32",
    "quick": False,
    "versions": {"focaldet": "0.1.0", "torch": "2.14.1", "python": "3.11"},
    "csrc_sha256": "0123456789ab",
    "limits": {"copy": 2.5e10, "read": 3e10},
}


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def row(n: int, provider: str, seconds: float, **fields: Any) -> dict[str, Any]:
    return {
        "op": "focal_loss",
        "case": f"focal loss, N = {n:,}, K = 80",
        "provider": provider,
        "moved": 320 * n,
        "sizes": {"N": n, "K": 80},
        "seconds": [seconds, 1.1 * seconds, 1.2 * seconds],
        "limit": [1e-8 * n] * 3,
        "peak": 320 * n,
        **fields,
    }


def stored(folder: Path, rows: list[dict[str, Any]], **facts: Any) -> Path:
    path = folder / "result.json"
    path.write_text(json.dumps({"facts": FACTS | facts, "rows": rows}))
    return path


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    rows = [
        row(n, provider, factor * n)
        for n in (1_000, 4_000, 16_000)
        for provider, factor in (("torchvision", 1e-6), ("focaldet", 2e-8))
    ]
    return stored(tmp_path, rows, sweep="N")


def draw(result: Path, name: str) -> Path:
    path = result.parent / name
    assert part("__main__").main(["--from", str(result), "--plot", str(path)]) == 0
    return path


# Sweeps -----------------------------------------------------------------------------------------


def test_every_axis_has_sizes_for_its_operators() -> None:
    sweep = part("sweep")
    assert sweep.thread_counts(1) == [1]
    assert sweep.thread_counts(6) == [1, 2, 4, 6]
    for axis in sweep.AXES:
        assert set(sweep.ops(axis)) <= set(part("sized").OPS)


@pytest.mark.parametrize(("op", "axis"), [("focal_loss", "K"), ("nms", "N"), ("match", "dtype")])
def test_a_sweep_varies_its_axis_alone(op: str, axis: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    arguments = [op, "--sweep", axis, "--quick", "--rounds", "1", "--json", str(path)]
    assert part("__main__").main([*arguments, "--provider", "focaldet"]) == 0
    result = json.loads(path.read_text())
    assert result["facts"]["sweep"] == axis
    for title in {re.sub(r", N = .*", "", row["case"]) for row in result["rows"]}:
        sizes = [r["sizes"] for r in result["rows"] if r["case"].startswith(f"{title}, N")]
        assert len({size[axis] for size in sizes}) > 1
        assert len({tuple(v for k, v in size.items() if k != axis) for size in sizes}) == 1


def test_a_sweep_over_threads_leaves_them_as_they_were() -> None:
    sweep, before = part("sweep"), torch.get_num_threads()
    setup = part("inputs").Setup(torch.device("cpu"), torch.float32, (64, 64), True)
    timing = part("sized").Timing(["focaldet"], 1)
    found = list(sweep.rows("anchors", "threads", setup, timing))
    assert [rows[0].sizes["threads"] for rows in found] == sweep.thread_counts(
        part("facts").os.cpu_count()
    )
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("level", ("avx2", "avx512"))
def test_the_short_set_has_every_operator_and_a_stored_result(level: str) -> None:
    """Else CI compares nothing: `python -m benchmarks --short --json` stores it anew."""
    short, root = part("short"), Path(__file__).resolve().parent.parent
    assert set(short.SIZES) == set(part("ops").NAMES) - {"model"}
    setup = part("inputs").Setup(torch.device("cpu"), torch.float32, (64, 64), True)
    names = {
        case.name
        for op, sizes in short.SIZES.items()
        for size in sizes
        for case in part("sized").cases(op, setup, size)
    }
    stored = part("stored").read(root / "benchmarks" / "results" / "short" / f"{level}.json")
    assert stored.facts["simd"] == level
    timed = {row.case for row in stored.rows if row.provider == "focaldet" and row.seconds}
    assert timed == names
    assert len(
        {row.case for row in stored.rows if row.provider in ("torchvision", "reference")}
    ) == len(names)


# Arranging --------------------------------------------------------------------------------------


def test_panels_have_a_line_for_each_provider_and_the_limit(sweep: Path) -> None:
    series, result = part("plots.series"), part("stored").read(sweep)
    (panel,) = series.panels("N", result.rows)
    assert (panel.title, panel.fixed) == ("focal loss", {"K": 80})
    assert set(panel.seconds) == {"focaldet", "torchvision", "limit"}
    line = panel.seconds["focaldet"]
    assert line.x == [1_000, 4_000, 16_000]
    assert [y.median for y in line.y] == pytest.approx([2.2e-5, 8.8e-5, 3.52e-4])
    assert [y.median for y in panel.peak["focaldet"].y] == [320_000, 1_280_000, 5_120_000]


def test_ratios_are_of_the_same_round() -> None:
    series, report = part("plots.series"), part("report")
    case = {
        "focaldet": report.Row("op", "case", "focaldet", 8, seconds=[2.0, 8.0, 4.0]),
        "copy": report.Row("op", "case", "copy", 8, seconds=[1.0, 4.0, 2.0]),
        "reference": report.Row("op", "case", "reference", 8, note="left out"),
    }
    (found,) = series.cases(list(case.values()))
    assert found.ratios(series.LIMIT) == {"focaldet": (2, 2, 2)}
    assert found.ratios("reference") == {}


def test_titles_tell_cases_of_several_ways_and_caches_apart() -> None:
    rows = [
        part("report").Row("op", case, "focaldet", 8, way=way, cache=cache)
        for case, way, cache in (
            ("loss", "forward", "warm"),
            ("loss", "both", "cold"),
            ("nms", "forward", "warm"),
        )
    ]
    titles = [case.title for case in part("plots.series").cases(rows)]
    assert titles == ["loss, forward", "loss, forward and backward, cold caches", "nms"]


# Drawing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("swept", ["N", None])
def test_a_picture(swept: str | None, sweep: Path) -> None:
    path = draw(sweep if swept else stored(sweep.parent, [row(9, "focaldet", 1.0)]), "a.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


@pytest.mark.parametrize("swept", ["N", None])
def test_a_page_has_facts_figures_and_rows_and_needs_nothing_else(
    swept: str | None, sweep: Path
) -> None:
    if not swept:
        sweep = stored(sweep.parent, [row(9, "focaldet", 1.0), row(9, "copy", 1.0, note="<b>")])
    text = draw(sweep, "a.html").read_text()
    assert "http" not in text and "url(#" in text and "src=" not in text
    for fact in ("A &lt;fast&gt; processor", "avx2", "2.14.1", "0123456789ab", "25 GB/s"):
        assert fact in text
    assert text.count("<svg") == 1 and "prefers-color-scheme: dark" in text
    assert "<b>" not in text


def test_a_page_says_what_was_not_timed(tmp_path: Path) -> None:
    rows = [
        row(9, "focaldet", 2e-3),
        row(9, "torch.compile", 4e-3, note="first call: 3 s"),
        row(9, "mmcv", 1.0, note="mmcv is not installed") | {"seconds": []},
    ]
    text = draw(stored(tmp_path, rows), "a.html").read_text()
    assert "mmcv is not installed" in text and "first call: 3 s" in text
    assert "2.20 ms" in text and "4.40 ms" in text and "<td>2.00</td>" in text


@pytest.mark.parametrize("facts", [{}, {"sweep": "N"}])
def test_a_result_without_times_is_drawn(facts: dict[str, str], tmp_path: Path) -> None:
    failed = row(9, "focaldet", 1.0) | {"seconds": [], "limit": [], "note": "out of memory"}
    for name in ("a.png", "a.html"):
        assert draw(stored(tmp_path, [failed], **facts), name).stat().st_size > 1000
    assert "out of memory" in (tmp_path / "a.html").read_text()


def test_providers_keep_their_colours(sweep: Path) -> None:
    figures, rows = part("plots.figures"), part("stored").read(sweep).rows
    new = part("report").Row("op", "case", "another", 8, seconds=[1.0])
    looks = figures.looks_of([*rows, new])
    assert list(looks) == ["focaldet", "torchvision", "another"]
    assert looks["focaldet"] == figures.LOOKS["focaldet"]
    assert len(set(looks.values())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "plot.pdf"], "--plot plot.pdf: expected a .png or .html file"),
        (["--plot", "no/such/plot.png"], "in a folder that exists"),
        (["--from", "RESULT"], "expected a --plot FILE"),
        (["--from", "nothing.json", "--plot", "PLOT"], "nothing.json: No such file"),
        (["--sweep", "L"], "axis 'L' is not there; available: N, K, boxes"),
        (["nms", "--sweep", "K"], "a sweep over K: op 'nms' is not there; available: focal_loss"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], message: str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"RESULT": str(sweep), "PLOT": str(sweep.parent / "plot.png")}
    with pytest.raises(SystemExit) as stopped:
        part("__main__").main([names.get(argument, argument) for argument in arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_matplotlib_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        part("__main__").main(["nms", "--plot", str(tmp_path / "plot.png")])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == (
        'benchmarks: error: --plot needs matplotlib: pip install "focaldet[plots]"\n'
    )
    assert captured.out == ""
