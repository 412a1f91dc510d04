"""Results as `python -m benchmarks --json` wrote them, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .report import Row


class Unusable(Exception):
    """A result that cannot be read or compared, in one line."""


@dataclass(frozen=True)
class Result:
    path: Path
    facts: dict[str, Any]
    rows: list[Row]


def flat(facts: dict[str, Any]) -> dict[str, Any]:
    """With the versions, which may be a dict of their own, among the others."""
    return {k: v for k, v in facts.items() if k != "versions"} | (facts.get("versions") or {})


def read(path: Path) -> Result:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        facts, rows = flat(found["facts"]), [Row(**fields) for fields in found["rows"]]
        times = [seconds for row in rows for seconds in (*row.seconds, *row.limit)]
        if not (facts["device"] and facts["dtype"] and all(seconds > 0 for seconds in times)):
            raise ValueError("device, dtype or times are missing or not positive")
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise Unusable(
            f"{path}: expected what `python -m benchmarks --json` writes ({reason})"
        ) from None
    return Result(path, facts, rows)
