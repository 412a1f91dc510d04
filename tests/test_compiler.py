"""The compiler report reads cuobjdump's output, finds what is wrong, and finds nothing here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import focaldet

pytestmark = pytest.mark.usefixtures("benchmarks")

# Recorded from cuobjdump -elf -res-usage -sass, abridged: a kernel that spills, compiled for sm_80,
# and one with 64 bytes of shared memory, compiled for sm_90 beside a kernel without bounds.
DUMP = """
Fatbin elf code:
================
arch = sm_80
code version = [1,8]

64-bit ELF: type=ET_EXEC, ABI=8, sm=80, toolkit=13.0, flags=0x6005004
    8   16bc     70  0  4                    CUDA_INFO       40    3       10 .nv.info._Z5spillPf

.section .note.nv.tkinfo
\tTool Name: ptxas
\tTool Version: Cuda compilation tools, release 13.0, V13.0.88

.nv.info
\t<0x1>
\tAttribute:\tEIATTR_REGCOUNT
\tValue:\tfunction: _Z5spillPf(0x3)\tregister count: 32

.nv.info._Z5spillPf
\t<0x10>
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x100 0x2 0x1
\t<0x11>

Resource usage:
 Common:
  GLOBAL:28 CONSTANT[4]:224
 Function _Z5spillPf:
  REG:32 STACK:800 SHARED:0 LOCAL:0 CONSTANT[2]:8 CONSTANT[0]:3784 TEXTURE:0 SURFACE:0 SAMPLER:0

\tcode for sm_80
\t\tFunction : _Z5spillPf
\t.headerflags\t@"EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
        /*01e0*/                   STL.128 [R1+0x10], R16 ;              /* 0x0000101001007387 */
        /*0220*/                   LDL.LU R7, [R1+0x8] ;                 /* 0x0000080001077983 */
        /*08d0*/              @!P6 LDG.E.U16 R23, [R12.64] ;             /* 0x0000000a0c17e981 */
        /*0a70*/              @!P0 STG.E [R4.64+0xc], R15 ;              /* 0x00000c0f04008986 */
        /*0b10*/                   LDG.E.LTC128B R3, [R2.64] ;           /* 0x0000000402037981 */
        /*1220*/              @!P0 STG.E.128 [R2.64], R8 ;               /* 0x0000000802008986 */
\t\t..........

Fatbin elf code:
================
arch = sm_90
code version = [1,8]

64-bit ELF: type=ET_EXEC, ABI=8, sm=90, toolkit=13.0, flags=0x6005a04
.nv.info._Z3sumPd
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x100 0x1 0x1

.nv.info._Z4freePd
\tAttribute:\tEIATTR_NUM_BARRIERS

Resource usage:
 Function _Z3sumPd:
  REG:30 STACK:0 SHARED:1088 LOCAL:0 CONSTANT[0]:560 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _Z4freePd:
  REG:8 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:536 TEXTURE:0 SURFACE:0 SAMPLER:0

\tcode for sm_90
\t\tFunction : _Z3sumPd
        /*0090*/                   LDGSTS.E.BYPASS.128 [R7], [R2.64] ;   /* 0x0000000402077fae */
        /*00a0*/              @!P1 LDG.E.64.CONSTANT R8, desc[UR4][R2.64] ; /* 0x00000004020819 */
        /*00b0*/                   STS.64 [UR4], R2 ;                    /* 0x0000000204009988 */
        /*00c0*/                   STG.E.64 desc[UR4][R4.64], R2 ;       /* 0x0000000204007986 */
\t\tFunction : _Z4freePd
        /*0050*/                   EXIT ;                                /* 0x000000000000794d */

Fatbin ptx code:
================
arch = sm_90
"""


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def kernel(name: str, arch: str = "sm_80", **fields: Any) -> Any:
    usual = dict(registers=40, stack=0, local=0, shared=0, block=256)
    accesses = dict(loads=[1, 0, 0, 0], stores=[1, 0, 0, 0], loop=0)
    return part("compiler.cubin").Kernel(name=name, arch=arch, **(usual | accesses | fields))


LOOP = """
 /*0000*/ LDC R1, c[0x0][0x28] ;
 /*0010*/ @P0 BRA 0x50 ;
 /*0020*/ LDG.E.128 R4, [R2] ;
 /*0030*/ @!P1 BRA 0x70 ;
 /*0040*/ FMUL R4, R4, R4 ;
 /*0050*/ FADD R5, R4, R4 ;
 /*0060*/ FADD R5, R5, R4 ;
 /*0070*/ STG.E.128 [R2], R4 ;
 /*0080*/ @P2 BRA 0x20 ;
 /*0090*/ EXIT ;
 /*00a0*/ BRA 0xa0 ;
"""


def test_the_shortest_way_round_a_loop_is_found() -> None:
    """Past the branch that leaves out three instructions, not round the end's trap."""
    loops = part("compiler.loops")
    assert loops.shortest_loop(LOOP) == 4
    assert loops.shortest_loop(LOOP.replace("@!P1 BRA 0x70", "NOP")) == 7
    assert loops.shortest_loop(LOOP.replace("STG.E.128", "STG.E.64")) == 0
    assert loops.shortest_loop(LOOP.replace("@P2 BRA 0x20", "NOP")) == 0


def test_the_bound_is_of_instructions_or_of_memory() -> None:
    gpu = part("compiler.loops").Gpu(
        "G", 1, 1e9, 128e9 * 32 / 100
    )  # copies as 100 instructions a pack do
    assert part("compiler.loops").bound(50, gpu) == 1
    assert part("compiler.loops").bound(200, gpu) == 0.5


def test_what_cuobjdump_prints_is_read() -> None:
    spill, summed, free = part("compiler.cubin").parse(DUMP)
    accesses = dict(local=2, loads=[0, 0, 1, 1], stores=[1, 0, 1, 0])
    assert spill == kernel("_Z5spillPf", registers=32, stack=800, block=512, **accesses)
    accesses = dict(loads=[0, 1, 0, 0], stores=[0, 1, 0, 0])
    assert summed == kernel("_Z3sumPd", "sm_90", registers=30, shared=64, **accesses)
    accesses = dict(loads=[0, 0, 0, 0], stores=[0, 0, 0, 0])
    assert free == kernel("_Z4freePd", "sm_90", registers=8, block=None, **accesses)


def test_the_compiler_is_known_by_its_cubins() -> None:
    compiler = part("compiler.cubin").compiler
    assert compiler(DUMP) == "13.0.88"
    assert compiler("64bit elf: type=2, abi=7, sm=90, toolkit=129, flags = 0x5a055a") == "12.9"


@pytest.mark.parametrize(
    ("demangled", "name"),
    [
        ("focaldet::(anonymous namespace)::write_anchors", "write_anchors"),
        ("focaldet::(anonymous namespace)::sort_keys<double>", "sort_keys<double>"),
        (
            "focaldet::(anonymous namespace)::focal_elements"
            "<c10::Half, focaldet::IntegerPower<2>, false, true>",
            "focal_elements<float16, gamma 2, any targets, gradient>",
        ),
        (
            "focaldet::(anonymous namespace)::focal_partial_sums"
            "<c10::BFloat16, focaldet::RealPower<float, focaldet::AnyFraction>, true, false>",
            "focal_partial_sums<bfloat16, any gamma, hard labels, loss>",
        ),
    ],
)
def test_names_are_readable(demangled: str, name: str) -> None:
    assert part("compiler.cubin").readable(demangled) == name


def test_tools_are_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = ModuleSpec("triton", None, is_package=True)
    triton.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(part("compiler.cubin"), "find_spec", lambda name: triton)
    folders = [tmp_path / "backends/nvidia/bin", tmp_path / "cuda/bin", tmp_path / "path"]
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    find = part("compiler.cubin").find_tool
    assert find("cuobjdump") is None
    for folder in folders:
        folder.mkdir(parents=True)
        tool = folder / "cuobjdump"
        tool.touch(mode=0o755)
        assert find("cuobjdump") == str(tool)


# Each as cuda_occupancy.h of CUDA 13.0 computes it.
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (dict(registers=32), (2048, "")),
        (dict(registers=40), (1536, "registers")),
        (dict(registers=51), (1024, "registers")),  # 56 by the granularity, 9 warps a partition
        (dict(registers=255), (256, "registers")),
        (dict(registers=32, block=1024, shared=36992), (2048, "")),
        (dict(registers=32, shared=36992), (1024, "shared memory")),
        (dict(registers=32, shared=36992, arch="sm_90"), (1536, "shared memory")),
        (dict(registers=16, block=32), (1024, "block size")),  # no more than 32 blocks
        (dict(registers=32, block=1024, arch="sm_89"), (1024, "block size")),
        (dict(block=None), None),
        (dict(arch="sm_999"), None),
    ],
)
def test_bound_on_occupancy(fields: dict[str, Any], expected: tuple[int, str] | None) -> None:
    assert part("compiler").occupancy(kernel("k", **fields)) == expected


Report = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Report:
    """Runs the command as if it measured the given kernels, and has its exit code and what it
    prints behind the summary; the files are temporary."""
    compiler = part("compiler")
    monkeypatch.setattr(compiler, "RESULT", tmp_path / "kernels.json")
    monkeypatch.setattr(compiler, "DOCS", tmp_path / "compiled.md")
    monkeypatch.setattr(compiler, "csrc_sha256", lambda: "0" * 64)
    compiler.DOCS.write_text("before\n<!-- compiler:begin -->\n<!-- compiler:end -->\nafter\n")

    def run(kernels: list[Any], *arguments: str, nvcc: str = "13.0.88") -> tuple[int, list[str]]:
        monkeypatch.setattr(compiler, "measure", lambda module: (nvcc, kernels))
        code = compiler.main(["--module", "_C_cuda.so", *arguments])
        return code, capsys.readouterr().out.splitlines()[1:]

    return run


def kernels() -> list[Any]:
    """One of each that PACKED names, for two architectures."""
    templates, archs = part("compiler").PACKED, ("sm_80", "sm_90")
    return [kernel(template, arch) for template in templates for arch in archs]


def test_the_table_is_rendered_between_the_markers(report: Report) -> None:
    docs = part("compiler").DOCS
    measured = kernels()
    measured[0] = replace(measured[0], registers=48)
    assert report(measured) == (0, [])
    text = docs.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    row = "| `focal_elements` | 48 / 40 | 0 | 256 | 1,280 / 1,536 | registers |"
    assert f"{row} 1, 0, 0, 0 | 1, 0, 0, 0 |" in text
    count = len(part("compiler").PACKED)
    assert f"nvcc 13.0.88 for sm_80 / sm_90; csrc `000000000000`. {count} kernels" in text
    assert report(measured, "--check") == (0, [])
    docs.write_text(text.replace("48 / 40", "40", 1))
    code, lines = report(measured, "--check")
    assert code == 1 and len(lines) == 1 and "does not say what" in lines[0]
    assert "48 / 40" not in docs.read_text()  # a check changes nothing


@pytest.mark.parametrize(
    ("index", "fields", "line"),
    [
        (1, dict(stack=16), "focal_elements, sm_90: 16 bytes of stack, 0 local-memory accesses"),
        (2, dict(local=3), "focal_partial_sums, sm_80: 0 bytes of stack, 3 local-memory accesses"),
        (0, dict(loads=[0, 9, 0, 0]), "focal_elements, sm_80: none of its global loads moves 16"),
        (7, dict(stores=[0, 0, 4, 0]), "write_anchors, sm_90: none of its global stores moves 16"),
    ],
)
def test_what_is_wrong_is_found(
    report: Report, index: int, fields: dict[str, Any], line: str
) -> None:
    measured = kernels()
    measured[index] = replace(measured[index], **fields)
    report(measured)
    code, lines = report(measured, "--check")
    assert code == 1 and len(lines) == 1 and lines[0].startswith(line)


def test_other_kernels_need_no_packs(report: Report) -> None:
    measured = [*kernels(), kernel("sort_keys<float>", loads=[0, 0, 1, 0], stores=[0, 0, 1, 0])]
    measured[6] = replace(measured[6], loads=[0] * 4)  # write_anchors reads parameters alone
    report(measured)
    assert report(measured, "--check") == (0, [])


def test_a_lost_kernel_is_found(report: Report) -> None:
    report(kernels()[:-2])
    code, lines = report(kernels()[:-2], "--check")
    assert code == 1 and lines[0].startswith("box_by_box: there is no such kernel")


def test_drift_is_found_where_the_compiler_is_the_same(report: Report) -> None:
    report(kernels())
    measured = [*kernels()[1:], kernel("sort_keys", "sm_90")]
    measured[0] = replace(measured[0], registers=41, shared=64)
    code, lines = report(measured, "--check")
    starts = [
        "focal_elements, sm_80: gone",
        "focal_elements, sm_90: registers 40 became 41, shared 0 became 64",
        "sort_keys, sm_90: new",
    ]
    assert code == 1 and len(lines) == 3 and all(map(str.startswith, lines, starts))

    code, lines = report(measured, "--check", nvcc="13.1.80")
    assert code == 0 and len(lines) == 1
    assert lines[0].startswith("figures not compared: here nvcc 13.1.80 for sm_80 / sm_90, in ")
    assert report(kernels()[::2], "--check")[0] == 0  # nor those of other architectures
    measured[0] = replace(measured[0], stack=8)  # wrong by every compiler
    assert report(measured, "--check", nvcc="13.1.80")[0] == 1


@pytest.mark.parametrize("nvcc", ["13.0.88", "13.1.80"])
def test_figures_of_other_sources_are_found(
    report: Report, monkeypatch: pytest.MonkeyPatch, nvcc: str
) -> None:
    report(kernels())
    monkeypatch.setattr(part("compiler"), "csrc_sha256", lambda: "1" * 64)
    code, lines = report(kernels(), "--check", nvcc=nvcc)
    assert code == 1 and len(lines) == 1 and "run `python -m benchmarks.compiler`" in lines[0]


def stopped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        part("compiler").main(["--check", *arguments])
    assert error.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_nothing_to_read_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(focaldet, "_C_cuda", None)
    monkeypatch.setattr(focaldet, "cuda_reason", "this torch is CPU only")
    assert "no focaldet._C_cuda: this torch is CPU only" in stopped(capsys)
    monkeypatch.setattr(part("compiler.cubin"), "find_spec", lambda name: None)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no cuobjdump on PATH" in stopped(capsys, "--module", "_C_cuda.so")
    tool = tmp_path / "cuobjdump"
    tool.write_text("#!/bin/sh\necho 'cuobjdump fatal : no such file' >&2; exit 1")
    tool.chmod(0o755)
    assert "cuobjdump fatal : no such file" in stopped(capsys, "--module", "_C_cuda.so")


def test_results_that_are_none_get_one_line(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    part("compiler").RESULT.write_text("{")
    with pytest.raises(SystemExit) as error:
        report(kernels(), "--check")
    assert error.value.code == 2
    assert "expected what `python -m benchmarks.compiler` writes" in capsys.readouterr().err


def test_the_documentation_says_what_the_results_say() -> None:
    compiler = part("compiler")
    text = compiler.DOCS.read_text()
    facts, committed = compiler.load()
    assert compiler.inserted(text, facts, committed) == text
    assert list(compiler.findings(committed)) == []


@pytest.mark.slow
@pytest.mark.skipif(focaldet._C_cuda is None, reason="no focaldet._C_cuda")
def test_nothing_is_wrong_with_the_kernels_here() -> None:
    """Drift is left to the command: the module may have been built from other sources."""
    cubin = part("compiler.cubin")
    if cubin.find_tool("cuobjdump") is None:
        pytest.skip("no cuobjdump")
    nvcc, built = cubin.measure(Path(focaldet._C_cuda.__file__))
    assert nvcc.startswith(focaldet._C_cuda.cuda_version)
    assert list(part("compiler").findings(built)) == []
