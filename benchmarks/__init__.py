"""Times every operator and the model against their peers: `python -m benchmarks --help`.

`ops/` has the cases, by family. A case has inputs (inputs.py) and providers (case.py, compiled.py,
peers.py); measure.py compares what they give and times them in turns (clock.py), beside what memory
can do (limits.py) and takes (memory.py); report.py prints it.

`python -m` puts the project root first on sys.path, where ./focaldet would hide an installed
focaldet. Where that folder holds no extension for this Python, the root leaves sys.path again.
"""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if not any((ROOT / "focaldet" / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != ROOT]
