"""What keeps `import focaldet` from working is said in one line, with what mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from focaldet._extension import _is_the_command

PACKAGE = Path(__file__).parents[1] / "focaldet"
pytestmark = pytest.mark.skipif(not PACKAGE.exists(), reason="the source folder is not here")
TAG = sysconfig.get_config_var("SOABI")  # such as cpython-311-x86_64-linux-gnu
# Without the finder of an editable install, which would find the package elsewhere.
ALONE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with the package, without its extension modules."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "tree" / "focaldet", ignore=ignore)
    return tmp_path / "tree"


@pytest.fixture
def python(tree: Path) -> Python:
    """Runs this Python, by which the folder's packages are found first."""

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, *map(str, words)]
        return subprocess.run(
            command, cwd=tree.parent, env=environment, capture_output=True, text=True
        )

    return run


def refusal(python: Python, *words: str) -> str:
    """The last line of the traceback."""
    done = python(*words, "-c", ALONE + "import focaldet")
    assert done.returncode == 1, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: focaldet: ")
    return last.removeprefix("ImportError: focaldet: ")


def fake_torch(tree: Path, version: str) -> None:
    (tree / "torch").mkdir(exist_ok=True)
    (tree / "torch" / "__init__.py").write_text(f"__version__ = {version!r}\n")


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0+cpu"])
def test_an_older_torch(python: Python, tree: Path, version: str) -> None:
    fake_torch(tree, version)
    expected = f'needs torch 2.10 or later, and this is {version}: pip install "torch>=2.10"'
    assert refusal(python) == expected


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0a0+git1234", "3.0"])
def test_torch_from_2_10_on_is_taken(python: Python, tree: Path, version: str) -> None:
    fake_torch(tree, version)
    assert "is not built here" in refusal(python)  # the next thing that is looked at


def test_no_torch(python: Python) -> None:
    message = 'needs torch 2.10 or later, and there is none: pip install "torch>=2.10"'
    assert refusal(python, "-S") == message  # -S: without site-packages


@pytest.mark.parametrize(
    ("built", "message"),
    [
        ([], "is not built here: run `pip install .` in the source folder"),
        (["cpython-399-sparc-sunos"], "was built for Python 3.99 on sparc-sunos, and this is "),
        (["cpython-398t-x86_64-linux-gnu", "abi9"], "for abi9 and Python 3.98t on x86_64-linux-"),
    ],
)
def test_no_extension_for_this_python(
    python: Python, tree: Path, built: list[str], message: str
) -> None:
    fake_torch(tree, "2.10.0")
    for tag in built:
        (tree / "focaldet" / f"_C.{tag}.so").touch()
    line = refusal(python)
    assert line.startswith("the extension focaldet._C ") and message in line
    assert "run `pip install .`" in line
    if built:
        assert f"Python 3.{sys.version_info.minor} on {TAG.split('-', 2)[2]}: run" in line


def test_an_extension_that_does_not_load(python: Python, tree: Path) -> None:
    fake_torch(tree, "2.10.0")
    (tree / "focaldet" / f"_C.{TAG}.so").write_bytes(b"no library")
    line = refusal(python)
    assert line.startswith("the extension focaldet._C does not load: ") and "pip install ." in line


def test_the_command_line_says_it_without_a_traceback(python: Python, tree: Path) -> None:
    fake_torch(tree, "2.9.1")
    script = tree.parent / "bin" / "focaldet"  # as pip writes it
    script.parent.mkdir()
    script.write_text("import sys\nfrom focaldet.cli import main\nsys.exit(main())\n")
    for words in ((script, "env"), ("-m", "focaldet", "env")):
        done = python(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "focaldet: error: needs torch 2.10 or later, and this is 2.9.1: "
            'pip install "torch>=2.10"\n'
        )


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("/usr/bin/focaldet", ["python", "/usr/bin/focaldet", "env"], True),
        ("-m", ["python", "-m", "focaldet"], True),
        ("-m", ["python", "-m", "pytest"], False),
        ("-c", ["python", "-c", "import focaldet"], False),
        ("", ["python"], False),
        ("train.py", ["python", "train.py", "focaldet"], False),
    ],
)
def test_whose_errors_are_printed(program: str, words: list[str], expected: bool) -> None:
    assert _is_the_command(program, words) is expected
