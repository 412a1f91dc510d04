"""The benchmarks run, notice wrong results, and use the focaldet that is installed."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pages.marked import write_pages

import focaldet

ROOT = Path(__file__).resolve().parent.parent
DIFFERENTIABLE = {"focal_loss", "softmax_focal_loss", "retinanet_loss"}
# torch.compile takes seconds for each case; test_compiled_providers_agree has it.
PROVIDERS = ("focaldet", "reference", "torchvision")
pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def operators() -> list[str]:
    return [name for name in part("ops").NAMES if name != "model"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quick run of all operators writes."""
    path = tmp_path_factory.mktemp("benchmarks") / "cpu.json"
    there = part("peers").available()
    wanted = [name for name in PROVIDERS if name != "torchvision" or name in there]
    arguments = [*operators(), *(word for name in wanted for word in ("--provider", name))]
    arguments += ["--quick", "--rounds", "2", "--threads", "1", "--json", str(path)]
    assert part("__main__").main(arguments) == 0
    return path


def by_case(result: Path) -> dict[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Rows by what identifies a case, and by provider."""
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in json.loads(result.read_text())["rows"]:
        key = tuple(row[name] for name in ("op", "case", "way", "cache"))
        assert row["provider"] not in found.setdefault(key, {}), f"two rows of {key}"
        found[key][row["provider"]] = row
    return found


def test_every_operator_is_timed_against_its_peers(result: Path) -> None:
    cases = by_case(result)
    assert {op for op, *_ in cases} == set(operators())
    for rows in cases.values():
        assert {"focaldet", "reference"} <= set(rows)
        for row in rows.values():
            left_out = row["provider"] == "reference" and row["note"].startswith("left out: ")
            assert len(row["seconds"]) == (0 if left_out else 2), row
            assert min(row["seconds"], default=1) > 0, row
            assert row["cache"] == "warm" and row["sizes"], row


def test_what_has_a_gradient_is_timed_each_way(result: Path) -> None:
    for op, case, way, _ in (cases := by_case(result)):
        differentiable = op in DIFFERENTIABLE or case.startswith("decode_boxes")
        expected = {"forward", "backward", "both"} if differentiable else {"forward"}
        assert {key[2] for key in cases if key[:2] == (op, case)} == expected
        assert way in expected


def test_times_stand_beside_the_limit_of_the_same_round(result: Path) -> None:
    for (_, _, way, _), rows in by_case(result).items():
        limits = [rows[name] for name in ("copy", "read") if name in rows]
        assert len(limits) == (0 if way == "backward" else 1)
        for row in rows.values():
            timed_beside = bool(limits) and row not in limits and bool(row["seconds"])
            assert row["limit"] == (limits[0]["seconds"] if timed_beside else [])
            assert (row["moved"] is None) == (way == "backward")


def test_every_provider_has_its_peak(result: Path) -> None:
    """Of tensors: forward and backward, a focal loss takes the gradient and little more."""
    for (op, _, way, _), rows in by_case(result).items():
        for row in (each for each in rows.values() if each["seconds"]):
            limit = row["provider"] in ("copy", "read")
            assert limit if row["peak"] is None else 0 <= row["peak"] < 2**30, row
        if op == "focal_loss" and way == "both":
            gradient = 4 * rows["focaldet"]["sizes"]["N"] * rows["focaldet"]["sizes"]["K"]
            assert gradient <= rows["focaldet"]["peak"] <= gradient + 4096
            assert rows["reference"]["peak"] > 4 * gradient


def test_facts_name_machine_versions_and_sources(result: Path) -> None:
    facts = json.loads(result.read_text())["facts"]
    assert facts["simd"] == focaldet._C.simd_level
    assert (facts["device"], facts["dtype"], facts["threads"]) == ("cpu", "float32", 1)
    assert facts["versions"]["focaldet"] == focaldet.__version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["limits"]["copy"] > 1e6 and facts["limits"]["read"] > 1e6
    assert facts["csrc_sha256"] == part("sources").csrc_sha256(ROOT / "csrc")


@pytest.mark.slow
def test_the_model_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert part("__main__").main(["model", "--quick", "--rounds", "1", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "training step" in out and "inference" in out
    assert "disagrees" not in out and "fails" not in out


def test_heap_and_simd_are_stated() -> None:
    setup = part("inputs").Setup(torch.device("cpu"), torch.half, (1, 1), True)
    known = part("facts").facts(setup)
    text = part("report").header(known | {"heap": "default", "load": 0.5, "cores": 2})
    assert "load     0.5 processes at the start\n" in text
    assert f"SIMD {focaldet._C.simd_level}" in text
    assert "MALLOC_MMAP_THRESHOLD_=" in text and "MALLOC_TRIM_THRESHOLD_=" in text
    text = part("report").header(known | {"heap": "kept", "load": 3.25, "cores": 2})
    assert "heap     kept" in text and "3.25 processes at the start; other work may be" in text


def test_ratios_are_paired_by_round() -> None:
    row = part("report").Row
    slow, fast = (
        row("op", "case", n, None, seconds=s) for n, s in (("a", [4, 60]), ("b", [2, 20]))
    )
    assert slow.relative_to(fast) == [2, 3]
    assert slow.relative_to(row("op", "case", "c", None, note="left out")) == []


def test_hash_of_sources_sees_names_and_contents(tmp_path: Path) -> None:
    csrc_sha256 = part("sources").csrc_sha256
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "a.cpp").write_text("int a;")
    first = csrc_sha256(tmp_path)
    (tmp_path / "cpu" / "a.cpp").write_text("int b;")
    second = csrc_sha256(tmp_path)
    (tmp_path / "cpu" / "a.cpp").rename(tmp_path / "a.cpp")
    assert len({first, second, csrc_sha256(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sort"], "op 'sort' is not there; available: focal_loss, softmax"),
        (["nms", "--provider", "mmdet"], "provider 'mmdet' is not there; available: focaldet, "),
        (["nms", "--device", "tpu"], "device 'tpu' is not there; available: cpu"),
        (["nms", "--dtype", "int8"], "dtype 'int8' is not there; available: fp32, bf16"),
        (["nms", "--cache", "hot"], "cache 'hot' is not there; available: warm, cold, both"),
        (["nms", "--heap", "big"], "heap 'big' is not there; available: kept, default, both"),
        (["nms", "--rounds", "0"], "expected an integer of at least 1, got '0'"),
        (["nms", "--json", "no/such/folder/cpu.json"], "expected a file in a folder that exists"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        part("__main__").main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The benchmarks that were to run in processes of their own: their options, their heaps."""
    main, found = part("__main__"), []

    def recorded(command: list[str], env: dict[str, str]) -> Any:
        parsed = vars(main.make_parser().parse_args(command[3:]))
        kept = part("heap").HEAP_KEPT.items() <= env.items()
        found.append(parsed | {"heap of process": "kept" if kept else "default"})
        return subprocess.CompletedProcess(command, 3 if parsed["heap"] == "kept" else 0)

    monkeypatch.setattr(main.subprocess, "run", recorded)
    for name in part("heap").HEAP_KEPT:
        monkeypatch.delenv(name, raising=False)
    return found


def test_another_heap_is_another_process(children: list[dict[str, Any]], tmp_path: Path) -> None:
    json = tmp_path / "out.json"
    options = ["anchors", "--quick", "--device", "cpu", "--dtype", "bf16", "--json", str(json)]
    assert part("__main__").main([*options, "--heap", "kept"]) == 3
    (only,) = children
    assert (only["heap"], only["heap of process"], only["json"]) == ("kept", "kept", json)
    assert only["ops"] == ["anchors"] and only["dtype"] == "bf16" and only["quick"]


def test_both_heaps_have_a_file_each(children: list[dict[str, Any]], tmp_path: Path) -> None:
    options = ["--device", "cpu", "--json", str(tmp_path / "out.json"), "--heap", "both"]
    assert part("__main__").main(options) == 3
    assert [each["heap of process"] for each in children] == ["kept", "default"]
    names = [each["json"].name for each in children]
    assert names == ["out-cpu-kept.json", "out-cpu-default.json"]


def test_everything_that_the_machine_can_do(
    children: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(focaldet, "_C_cuda", object())
    part("__main__").main(["nms", "--heap", "both"])
    assert [(each["device"], each["heap"]) for each in children] == [
        ("cuda", "kept"),  # malloc does not change how a GPU is timed
        ("cpu", "kept"),
        ("cpu", "default"),
    ]


@pytest.fixture
def pages(tmp_path: Path, result: Path) -> tuple[Path, list[str]]:
    """A folder of pages with markers, and the arguments that render a CPU's result into them."""
    (tmp_path / "results").mkdir()
    run = json.loads(result.read_text())
    run["facts"]["quick"] = False
    (tmp_path / "results" / "cpu.json").write_text(json.dumps(run))
    write_pages(tmp_path, part("tables").PAGES)
    return tmp_path, ["--root", str(tmp_path), "--results", str(tmp_path / "results")]


def test_tables_are_rendered_between_the_markers(pages: tuple[Path, list[str]]) -> None:
    root, arguments = pages
    page, main = root / "docs" / "benchmarks.md", part("tables").main
    assert main([*arguments, "--check"]) == 1
    assert "old" in page.read_text()  # a check changes nothing
    assert main(arguments) == 0
    for name in part("tables").PAGES:
        text = (root / name).read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    text = page.read_text()
    assert "GPU: not measured yet." in text and "CPU: not measured" not in text
    assert "| nms, 1,000 uniform boxes | " in text and "LVIS" in text
    assert "| sigmoid_focal_loss from labels, RetinaNet 640 x 640, forward and backward | " in text
    assert text.count("sigmoid_focal_loss from labels, RetinaNet 640 x 640") == 1
    assert main([*arguments, "--check"]) == 0
    page.write_text(text.replace(" µs", " ms", 1))
    assert main([*arguments, "--check"]) == 1


def test_tables_without_results(pages: tuple[Path, list[str]]) -> None:
    root, arguments = pages
    (root / "results" / "cpu.json").unlink()
    assert part("tables").main(arguments) == 0
    for page in ("README.md", "docs/benchmarks.md"):
        assert "CPU: not measured yet.\n\nGPU: not measured yet." in (root / page).read_text()


def test_the_headline_compares_within_a_round(benchmarks: None) -> None:
    """Medians of ratios, not ratios of medians; a case without its times has no row."""

    def row(provider: str, *seconds: float) -> dict[str, Any]:
        case, _ = part("headline").CASES[1]
        fields = {"case": case, "provider": provider, "way": "forward", "seconds": seconds}
        return {"op": "match", "moved": 1, **fields}

    rows = [row("focaldet", 1, 2, 4), row("torchvision", 6, 2, 12), row("read", 0.5, 0.1, 0.5)]
    facts = {"device": "cpu", "dtype": "float32", "cpu": "a CPU", "gpu": None, "threads": 1}
    run = {"facts": facts | {"csrc_sha256": "0" * 64}, "rows": rows}
    table, caption, gpu = part("headline").render([run], []).split("\n\n")
    assert table.splitlines()[2:] == [
        "| match_anchors, RetinaNet 800 x 1333 | 2.00 s | 3.00x | 8.00x |  |  |  |"
    ]
    assert caption.startswith("CPU: a CPU, 1 thread, float32; ") and gpu.startswith("GPU: not")


def test_the_headline_has_all_its_rows() -> None:
    """The names of its cases are those of the committed results."""
    text = (ROOT / "README.md").read_text()
    for case, _ in part("headline").CASES:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {case}")]
        assert all(cell.strip() for cell in line.strip("|").split("|")), line


def test_the_figures_in_the_readmes_prose() -> None:
    """They are typed by hand: what docs/benchmarks.md says, rounded."""
    measured = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    prose = " ".join((ROOT / "README.md").read_text().split())

    def last_cell(start: str) -> str:
        (line,) = [line for line in measured if line.startswith(start)]
        return line.rstrip("| ").rpartition("| ")[2]

    loss = "| `retinanet_loss`, forward and backward, 2 images"
    row = [line for line in measured if line.startswith(f"{loss} | torchvision / focaldet, over")]
    kept, ratio = (float(x) for x in re.findall(r"\| ([\d.]+)x \(", row[0]))
    memory = re.search(r"([\d.]+) MB / (\d+) MB", last_cell(f'{loss}, mode "overwrite"'))
    assert f"{ratio:.0f} times as fast as torchvision" in prose
    assert f"({kept:.0f} times where malloc keeps" in prose
    assert f"{float(memory[1]):.1f} MB beside" in prose and f"takes {memory[2]} MB" in prose
    million = "| `nms`, 1,000,000 boxes in one group"
    time, unit = last_cell(f"{million} | time").split()
    peak = last_cell(f"{million} | peak").partition(" MB")[0]
    assert unit == "ms" and f"{float(time) / 1000:.1f} s and {float(peak):.0f} MB" in prose


def test_tables_refuse_what_they_cannot_use(
    pages: tuple[Path, list[str]], result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, arguments = pages
    target = root / "results" / "cpu.json"

    def refused() -> str:
        with pytest.raises(SystemExit) as stopped:
            part("tables").main(arguments)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    shutil.copy(result, target)
    assert "--quick" in refused()
    target.write_text("{")
    assert "expected what `python -m benchmarks --json` writes" in refused()
    target.unlink()
    (root / "README.md").write_text("no markers")
    assert "headline:begin" in refused()
    (root / "README.md").unlink()
    assert "README.md: No such file" in refused()


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """A copy of the source folders without a built extension."""
    built = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "results")
    for folder in ("benchmarks", "csrc", "focaldet"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=built)
    return tmp_path


def test_an_unbuilt_folder_does_not_hide_the_installed_package(source_tree: Path) -> None:
    arguments = "anchors --quick --rounds 1 --threads 1 --provider focaldet".split()
    command = [sys.executable, "-m", "benchmarks", *arguments]
    run = subprocess.run(command, cwd=source_tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "generate_anchors" in run.stdout


@pytest.mark.parametrize("built", [False, True])
def test_which_package_is_used(source_tree: Path, built: bool) -> None:
    if built:
        (source_tree / "focaldet" / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    find = "import benchmarks, importlib.util as u; print(u.find_spec('focaldet').origin)"
    command = [sys.executable, "-c", find]
    run = subprocess.run(command, cwd=source_tree, capture_output=True, text=True, check=True)
    expected = source_tree / "focaldet" / "__init__.py" if built else Path(focaldet.__file__)
    assert Path(run.stdout.strip()).resolve() == expected.resolve()
