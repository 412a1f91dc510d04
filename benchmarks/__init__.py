"""Times every operator and the model against their peers: `python -m benchmarks --help`.

`python -m` puts the project root first on sys.path, where ./focaldet would hide an installed
focaldet. Where that folder holds no extension for this Python, the root leaves sys.path again.
"""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if not any((ROOT / "focaldet" / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != ROOT]
