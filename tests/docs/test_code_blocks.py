"""Every code block of README.md and the documentation runs, page by page, as it stands there."""

from __future__ import annotations

import functools
import importlib
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages.blocks import BadPage, blocks, commands, run_page
from pages.commands import IN_CI, NOT_RUN, elsewhere, launched, outputs, shortened
from pages.prepared import SIZE, SMALL, prepare

import focaldet.cli
from focaldet.export import METADATA, save
from focaldet.models import RetinaNet

ROOT = Path(__file__).resolve().parent.parent.parent
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
OPTIONAL = ("torchvision", "matplotlib")  # packages without which a page is skipped
GUIDES = ("data", "detect", "experiments", "explain", "integrate", "scale", "train")
SLOW = ("README.md", *(f"docs/guides/{name}.md" for name in GUIDES))  # over 5 s
PAGES = [
    page
    for pattern in ("README.md", "CONTRIBUTING.md", "examples/README.md", "docs/**/*.md")
    for page in sorted(ROOT.glob(pattern))
]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    torch.manual_seed(0)
    prepare(folder)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of the command line are slim, and take images of a scene's size."""
    torch.set_num_threads(1)
    monkeypatch.setattr("focaldet.recipes.RetinaNet", functools.partial(RetinaNet, **SMALL))
    plain, sizes = RetinaNet.from_config, {"min_size": SIZE, "max_size": SIZE}
    monkeypatch.setattr(RetinaNet, "from_config", lambda config: plain(config | sizes))


class Packaged:
    """Stands for an AOTInductor package, which takes a minute to make: the graph as it is.
    tests/test_export.py makes real ones."""

    def __init__(self, path: str) -> None:
        about = {METADATA: ""}
        self.program = torch.export.load(path, extra_files=about).module()
        self.about = about[METADATA]

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.program(*inputs)

    def get_metadata(self) -> dict[str, str]:
        return {"focaldet": self.about}


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focaldet.cli.export.package", save)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", Packaged)


@pytest.fixture
def run(
    prepared: Path,
    small: None,
    not_compiled: None,
    benchmarks: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Path], None]:
    """Runs a page in a copy of the prepared folder, without what the page itself makes."""

    def command(words: list[str]) -> None:
        if elsewhere(words, CI):
            return
        if words[:3] == ["python", "-m", "benchmarks"]:  # CI runs it; here, whether it is accepted
            importlib.import_module("benchmarks.__main__").make_parser().parse_args(words[3:])
            return
        if words[0] == "torchrun":
            words = launched(words)
        assert words[0] == "focaldet", "no test knows this command; see tests/pages/commands.py"
        code = focaldet.cli.main(shortened(words))
        assert code == 0, capsys.readouterr().err

    def run(page: Path) -> None:
        folder = tmp_path / "work"
        shutil.copytree(prepared, folder)
        monkeypatch.chdir(folder)
        shown = [c for b in blocks(page) if b.language == "sh" for c in commands(b)]
        for made in {name for each in shown for name in outputs(each.words)}:
            shutil.rmtree(made, ignore_errors=True)
        try:
            run_page(page, ROOT, command)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"{error.name} is not installed")

    return run


def cases() -> list[object]:
    names = [(page, str(page.relative_to(ROOT))) for page in PAGES]
    slow = pytest.mark.slow
    return [pytest.param(p, id=name, marks=[slow] * (name in SLOW)) for p, name in names]


@pytest.mark.parametrize("page", cases())
def test_a_page_runs(page: Path, run: Callable[[Path], None]) -> None:
    run(page)


# Of made-up pages -------------------------------------------------------------------------------


def page_of(folder: Path, *parts: str) -> Path:
    """A page of parts; "python: ..." and "sh: ..." are fenced."""
    page = folder / "page.md"
    fenced = (
        f"```{kind}\n{text.strip()}\n```" if found and "\n" not in kind else part
        for part in parts
        for kind, found, text in [part.partition(": ")]
    )
    page.write_text("\n\n".join(["# A page", *fenced]) + "\n")
    return page


def test_a_page_in_order(run: Callable[[Path], None], tmp_path: Path) -> None:
    """One namespace for its Python, one folder for its commands, and both see the other's files."""
    export = "focaldet evaluate --data gt.json --detections dt.json \\\n    --json scores.json"
    read = "import json; stats = json.load(open('scores.json'))['stats']"
    run(page_of(tmp_path, f"sh: {export}  # a comment", f"python: {read}", "python: stats['AP']"))


@pytest.mark.parametrize(
    "block, line, message",
    [
        ("python: x = 1\n\nassert x == 2, x", 6, "1"),
        ("python: import focaldet\nfocaldet.ops.no_such_operator", 5, "no_such_operator"),
        ("python: x = (", 4, "was never closed"),
    ],
)
def test_wrong_python_is_found_at_its_line(
    run: Callable[[Path], None], tmp_path: Path, block: str, line: int, message: str
) -> None:
    page = page_of(tmp_path, block)
    with pytest.raises((AssertionError, AttributeError, SyntaxError), match=message) as raised:
        run(page)
    if isinstance(raised.value, SyntaxError):
        assert (raised.value.filename, raised.value.lineno) == (str(page), line)
    else:
        last = raised.traceback[-1]
        assert (str(last.path), last.lineno + 1) == (str(page), line)


@pytest.mark.parametrize(
    "parts, message",
    [
        (["sh: focaldet env\nfocaldet no-such-command"], r"page.md:5: focaldet no-such-command\n"),
        (["sh: focaldet detect photo.jpg \\\n  --weights a.pth"], "page.md:4: focaldet detect .*"),
        (["sh: focaldet env && rm -r x"], "page.md:4: rm -r x\nno test knows this command"),
        (["sh: focaldet env \\"], "without an end"),
        (["sh: focaldet 'env"], "No closing quotation"),
        (["pycon: >>> 1"], "page.md:3: a fence of language 'pycon'"),
        (["```\nno language\n```"], "page.md:3: a fence of language ''"),
        (["Text:", "    focaldet env"], "page.md:5: an indented code block"),
        (["```python\nx = 1"], "page.md:3: a fence without an end"),
        (['cpp: --8<-- "no/such/file.cpp"'], "there is no no/such/file.cpp"),
        (['cpp: --8<-- "setup.py:no-such-section"'], "setup.py has no section no-such-section"),
    ],
)
def test_what_a_page_must_not_have(
    run: Callable[[Path], None], tmp_path: Path, parts: list[str], message: str
) -> None:
    with pytest.raises(BadPage, match=message):
        run(page_of(tmp_path, *parts))


def test_commands_that_no_page_shows_are_not_listed() -> None:
    shown = {
        shlex.join(command.words)
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh"
        for command in commands(block)
    }
    assert {*IN_CI, *NOT_RUN} <= shown


def test_a_command_that_ci_no_longer_runs() -> None:
    with pytest.raises(AssertionError, match=".ci/run does not run it"):
        elsewhere(["focaldet", "demo"], "#!/bin/bash\n")


def test_lists_and_admonitions_hold_indented_text(tmp_path: Path) -> None:
    """And fences in them are blocks without the indent."""
    page = page_of(
        tmp_path, "- an item\n\n      more of it\n\n  ```python\n  x = 1\n  ```", "!!! note"
    )
    (block,) = blocks(page)
    assert (block.line, block.text) == (8, "x = 1")
