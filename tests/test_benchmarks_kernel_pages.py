"""The measured figures on the kernels' pages are those of the results."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks")

FACTS = {
    "cpu": "A CPU",
    "gpu": "A GPU",
    "threads": 2,
    "simd": "avx2",
    "dtype": "float32",
    "heap": "default",
    "csrc_sha256": "0123456789abcdef",
}


def pages() -> Any:
    return importlib.import_module("benchmarks.kernel_pages")


def row(provider: str, seconds: list[float], way: str = "forward", **fields: Any) -> dict[str, Any]:
    case = {"op": "match", "case": "match, small", "moved": 8, "way": way}
    return {**case, "provider": provider, "seconds": seconds, **fields}


def test_the_committed_pages_are_up_to_date() -> None:
    assert pages().main(["--check"]) == 0


def test_a_page_that_differs_is_reported_and_then_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = pages()
    for name in module.PAGES:
        (tmp_path / f"{name}.md").write_text(
            "a\n<!-- measured:begin -->\n<!-- measured:end -->\nb\n"
        )
    where = ["--pages", str(tmp_path)]
    assert module.main([*where, "--check"]) == 1
    assert "match.md does not say what" in capsys.readouterr().out
    assert module.main(where) == 0
    text = (tmp_path / "match.md").read_text()
    assert text.startswith("a\n") and text.endswith("\nb\n") and "| match_anchors, " in text
    assert module.main([*where, "--check"]) == 0


def test_the_share_is_of_the_limit_of_the_same_rounds() -> None:
    rows = [
        row("focaldet", [2e-3, 4e-3, 8e-3], limit=[1e-3, 1e-3, 4e-3], peak=5_000_000),
        row("torchvision", [1.0, 1.0, 1.0], peak=7_000_000),
        row("copy", [1e-3, 1e-3, 4e-3]),
    ]
    text = pages().table("match", {"facts": FACTS, "rows": rows}, [])
    assert "| match, small | 4.00 ms (50 % of a copy) | 5 MB | 7 MB |" in text
    assert "CPU: A CPU, 2 threads, SIMD avx2, float32, default malloc, csrc `0123456789ab`." in text


def test_the_whole_is_shown_and_columns_without_figures_are_not() -> None:
    ways = ("forward", "backward", "both")
    cpu = [row("focaldet", [1e-3 * (i + 1)], way, peak=9) for i, way in enumerate(ways)]
    gpu = [row("focaldet", [5e-6], way, cache="cold") for way in ways]
    runs = [{"facts": FACTS, "rows": rows} for rows in (cpu, gpu)]
    lines = pages().table("match", runs[0], runs[1:]).splitlines()
    assert lines[0] == "|  | CPU | memory | A GPU |"
    assert lines[2] == "| match, small, forward and backward | 3.00 ms | 9 B | 5.00 µs |"
