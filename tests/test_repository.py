"""What stands beside the code: hooks with the linters' versions, and forms that GitHub takes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).resolve().parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"

# GitHub's rules: "Syntax for issue forms" and "Syntax for GitHub's form schema". By type, the
# attributes that must be there and those that may.
ATTRIBUTES: dict[str, tuple[set[str], set[str]]] = {
    "markdown": ({"value"}, set()),
    "textarea": ({"label"}, {"description", "placeholder", "value", "render"}),
    "input": ({"label"}, {"description", "placeholder", "value"}),
    "dropdown": ({"label", "options"}, {"description", "multiple", "default"}),
    "checkboxes": ({"label", "options"}, {"description"}),
}


def test_hooks_have_the_versions_of_the_lint_group() -> None:
    text = (ROOT / "pyproject.toml").read_text()  # Python 3.10 has no tomllib
    group = re.search(r"^lint = \[(.*)\]$", text, re.MULTILINE)
    assert group is not None
    pinned = set(re.findall(r'"([^"]+)"', group[1]))
    hooks = yaml.safe_load(HOOKS.read_text())["repos"][0]["hooks"]
    used = {need for hook in hooks for need in hook.get("additional_dependencies", [])}
    assert used == pinned


def test_hooks_format_what_ci_checks() -> None:
    """The same C++ files as .ci/run."""
    hooks = yaml.safe_load(HOOKS.read_text())["repos"][0]["hooks"]
    pattern = next(hook["files"] for hook in hooks if hook["id"] == "clang-format")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    command = re.search(r"clang-format --dry-run .*ls-files (.*)\)", (ROOT / ".ci/run").read_text())
    assert command is not None
    endings = tuple(re.findall(r"'\*(\.\w+)'", command[1]))
    files = listed.stdout.splitlines()
    assert {f for f in files if re.search(pattern, f)} == {f for f in files if f.endswith(endings)}


def forms() -> list[Path]:
    return [path for path in FORMS if path.name != "config.yml"]


@pytest.mark.parametrize("path", forms(), ids=lambda path: path.stem)
def test_an_issue_form_follows_githubs_rules(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    assert form.keys() <= {"name", "description", "title", "labels", "assignees", "body"}
    body = form["body"]
    assert any(element["type"] != "markdown" for element in body)
    fields = [element for element in body if element["type"] != "markdown"]
    for kind in ("id", "label"):
        values = [field["id"] if kind == "id" else field["attributes"][kind] for field in fields]
        assert len(set(values)) == len(values), kind
    for element in body:
        check_element(element)


def check_element(element: dict[str, Any]) -> None:
    assert element.keys() <= {"type", "id", "attributes", "validations"}
    needed, allowed = ATTRIBUTES[element["type"]]
    attributes = element["attributes"]
    assert needed <= attributes.keys() <= needed | allowed
    assert re.fullmatch(r"[\w-]+", element.get("id", "none"))
    assert element.get("validations", {}).keys() <= {"required"}
    options = attributes.get("options", [])
    if element["type"] == "dropdown":
        assert len(set(options)) == len(options) > 0
        assert all(isinstance(option, str) and option.lower() != "none" for option in options)
    if element["type"] == "checkboxes":
        assert options and all(option.keys() <= {"label", "required"} for option in options)


def test_every_form_has_a_name_of_its_own() -> None:
    names = [yaml.safe_load(path.read_text())["name"] for path in forms()]
    assert len(set(names)) == len(names) == 4


def test_reports_of_wrong_behaviour_ask_for_the_environment() -> None:
    for name in ("bug", "wrong_result", "performance"):
        body = yaml.safe_load((FORMS[0].parent / f"{name}.yml").read_text())["body"]
        field = next(element for element in body if element.get("id") == "env")
        assert "focaldet env" in field["attributes"]["label"] and field["validations"]["required"]
