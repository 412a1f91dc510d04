"""Loads the extension modules, and says in one line what keeps them from loading.

`import focaldet` raises that line as an ImportError. The command line, which imports the package as
well, prints it and exits with 2.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

OLDEST_TORCH = (2, 10)  # the first with the stable ABI that the extension is built for
_INSTALL_TORCH = f'pip install "torch>={OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}"'


def check_torch() -> None:
    """Before the extension is loaded, which an older torch would answer with a missing symbol."""
    oldest = ".".join(map(str, OLDEST_TORCH))
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        _refuse(f"needs torch {oldest} or later, and there is none: {_INSTALL_TORCH}")
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version and (int(version[1]), int(version[2])) < OLDEST_TORCH:
        _refuse(f"needs torch {oldest} or later, and this is {torch.__version__}: {_INSTALL_TORCH}")


def load_cpu_module() -> None:
    try:
        import_module("focaldet._C")
    except ModuleNotFoundError:
        _refuse(_missing(Path(__file__).parent, sysconfig.get_config_var("SOABI")))
    except ImportError as error:
        if "FOCALDET_SIMD" in str(error):  # the module is well; what it was told is not
            _refuse(str(error))
        _refuse(
            f"the extension focaldet._C does not load: {error} (`pip install .` in the source "
            "folder builds it anew)"
        )


def load_cuda_module() -> tuple[ModuleType | None, str]:
    """_C_cuda, or None and why there is none.

    The CUDA kernels are a module of their own because they need libtorch_cuda: _C loads beside a
    CPU-only torch as well.
    """
    import torch

    if torch.version.cuda is None:
        return None, "this torch is CPU only; a CUDA build of torch has them loaded"
    try:
        return import_module("focaldet._C_cuda"), ""
    except ModuleNotFoundError:
        return None, "focaldet was built without CUDA (FOCALDET_CUDA=1 pip install . builds it)"
    except ImportError as error:
        return None, str(error)


def _missing(folder: Path, here: str) -> str:
    """Why there is no _C in the folder for the Python with the tag `here`."""
    found = [file.name.split(".")[1] for file in sorted(folder.glob("_C.*.so"))]
    if not found:
        return (
            "the extension focaldet._C is not built here: run `pip install .` in the source folder "
            "and start Python elsewhere, or run `pip install -e .`"
        )
    return (
        f"the extension focaldet._C was built for {' and '.join(map(_described, found))}, and this "
        f"is {_described(here)}: run `pip install .` in the source folder, by the pip of this "
        "Python"
    )


def _described(tag: str) -> str:
    """cpython-311-x86_64-linux-gnu in words."""
    parts = re.fullmatch(r"cpython-(\d)(\d+)(t?)-(.+)", tag)
    if parts is None:
        return tag
    major, minor, free_threaded, platform = parts.groups()
    return f"Python {major}.{minor}{free_threaded} on {platform}"


def _refuse(reason: str) -> NoReturn:
    if _is_the_command(sys.argv[0], sys.orig_argv):
        print(f"focaldet: error: {reason}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(f"focaldet: {reason}") from None


def _is_the_command(program: str, words: list[str]) -> bool:
    """Whether this process is `focaldet ...` or `python -m focaldet ...`: sys.argv[0] is "-m" as
    long as Python looks for the module, whose name is one of sys.orig_argv."""
    return Path(program).stem == "focaldet" or (program == "-m" and "focaldet" in words)
