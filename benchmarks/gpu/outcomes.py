"""What the steps of benchmarks/gpu left: read as figures, judged, and said in words."""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as xml
from typing import Any

from .. import ROOT
from .steps import PASSED, CannotRun, Figures, Outcome, Part

FOUND = 86  # compute-sanitizer's exit code for a program that succeeds in spite of its errors
SUMMARY = re.compile(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards? .*)$", re.M)
REPORT = re.compile(r"^=+ (?=\S)", re.M)  # where a report begins; its other lines are indented


def build(outcome: Outcome) -> Figures:
    if outcome.code != 0:
        return {}, outcome.last_words
    toolkit = re.search(r"^focaldet: CUDA (\S+) from", outcome.log, re.M)
    return {"nvcc": toolkit and toolkit[1], "extensions": extensions()}, ""


def extensions() -> str:
    """One hash over the extension modules in the tree: a build holds while they are its own."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "focaldet").glob("_C*.so")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def tests(outcome: Outcome) -> Figures:
    """Counts from pytest's JUnit XML, which it writes when it is interrupted, too."""
    try:
        suite = next(xml.parse(outcome.result).iter("testsuite"))
    except (OSError, xml.ParseError, StopIteration):
        return {}, outcome.last_words
    total, failed, errors, skipped = (
        int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
    )
    passed = total - failed - errors - skipped
    counts = {"passed": passed, "failed": failed, "errors": errors, "skipped": skipped}
    for case in suite.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            return counts, f"first {case.get('classname')}.{case.get('name')}"
    if passed == 0:
        return counts, "no test passed"
    return counts, "" if outcome.code == 0 else outcome.last_words


def sanitizer(outcome: Outcome) -> Figures:
    """The errors in focaldet's kernels. Those reported at another kernel are counted apart; a
    report that names none is ours."""
    if "Device not supported" in outcome.log:
        raise CannotRun("compute-sanitizer does not support this device")
    figures: Part = {"done": len(re.findall(r"^done: ", outcome.log, re.M))}
    summary = SUMMARY.search(outcome.log)
    if summary is None:
        return figures, outcome.last_words
    its_lines = (line for line in outcome.log.splitlines() if line.startswith("====="))
    reports = [text.strip() for text in REPORT.split("\n".join(its_lines)) if " at " in text]
    ours = [text for text in reports if "focaldet" in text]
    figures["elsewhere"] = len(reports) - len(ours)
    figures["found"] = int(summary[1]) - figures["elsewhere"]
    if figures["found"]:
        return figures, ours[0].splitlines()[0] if ours else outcome.last_words
    return figures, "" if outcome.code in (0, FOUND) else outcome.last_words


def benchmarks(outcome: Outcome) -> Figures:
    """Facts and rows. It is a fault if an operator fails or differs from its reference."""
    try:
        run = json.loads(outcome.result.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}, outcome.last_words
    for row in run["rows"]:
        if row["provider"] == "focaldet" and not row["seconds"]:
            return run, f"{row['case']}: {row['note']}"
    return run, "" if outcome.code == 0 else outcome.last_words


# Words ------------------------------------------------------------------------------------------


def described(part: Part) -> str:
    names = ("passed", "failed", "errors", "skipped")
    words = [f"{part[name]} {name}" for name in names if part.get(name)]
    if "found" in part:
        words.append(f"{part['found']} errors")
    if part.get("elsewhere"):
        words.append(f"{part['elsewhere']} in other kernels")
    if "reason" in part:
        words.insert(0, f"{part['status']} ({part['reason']})")
    return ", ".join(words) or part["status"]


def headline(result: dict[str, Any], csrc: str) -> str:
    """The line above a GPU's tables, in a tree whose sources have the hash `csrc`."""
    here, measured = result["machine"], result["csrc_sha256"]
    where = f"{here['gpu']}, driver {here['driver']}, CUDA {here['cuda']}"
    if measured != csrc:
        where = f"not measured since `{measured[:12]}`; then, on {where}"
    found = {name: described(part) for name, part in result["steps"].items()}
    facts = [f"{name}: {text}" for name, text in found.items() if text != PASSED]
    return f"GPU: {'; '.join([where, *facts])}."
