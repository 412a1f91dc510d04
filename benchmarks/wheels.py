"""The table of what `python tests/wheels.py try` found: one file beside many torches."""

from __future__ import annotations

from typing import Any


def table(result: dict[str, Any]) -> str:
    rows = []
    for run in result["runs"]:
        build = f"CUDA {run['cuda']}" if run["cuda"] else "CPU only"
        cells = (run["torch"], build, run["python"], run["cuda_kernels"], run["tests"])
        rows.append(f"| {' | '.join(cells)} |")
    head = ["| torch | build | Python | CUDA kernels | operators' tests |", "|---|---|---|---|---|"]
    return "\n".join([f"`{result['wheel']}`, sha256 `{result['sha256'][:12]}`:", "", *head, *rows])
