"""`python -m docs.checks` writes the table of all checks into docs/guides/data.md."""

from __future__ import annotations

from pathlib import Path

from focaldet.check import CHECKS, SEVERITIES

PAGE = Path(__file__).parent / "guides" / "data.md"
BEGIN, END = "<!-- checks:begin -->", "<!-- checks:end -->"


def table() -> str:
    lines = ["| check | severity | what it means | what to do |", "|---|---|---|---|"]
    for severity in SEVERITIES:
        for check in CHECKS.values():
            if check.severity == severity:
                name = f"`{check.id}`" + " *" * check.reads_images
                lines.append(f"| {name} | {severity} | {check.means} | {check.advice} |")
    return "\n".join(lines)


def rendered(text: str) -> str:
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
