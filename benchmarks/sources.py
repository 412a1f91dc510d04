"""The hash that ties a result to the kernels it was measured with."""

from __future__ import annotations

import hashlib
from pathlib import Path

from . import ROOT


def csrc_sha256(folder: Path = ROOT / "csrc") -> str:
    """One hash over the kernels' sources: in the order of their paths relative to the folder, path
    and length, each ended by a zero byte, then the content."""
    sources = (p for p in folder.rglob("*") if p.suffix in (".cpp", ".cu", ".cuh", ".h"))
    files = {p.relative_to(folder).as_posix(): p for p in sources}
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
