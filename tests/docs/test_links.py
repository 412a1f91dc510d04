"""Links of the pages: to files that are there, and on the site to a repository or nowhere."""

from __future__ import annotations

import importlib.util
import logging
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"\]\(([^()\s]+)\)")


@pytest.fixture(scope="module")
def links() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_links", DOCS / "links.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_pages() -> list[Path]:
    """Those about the kernels and about contributing."""
    folders = (DOCS / "kernels", DOCS / "contributing")
    return [*(page for folder in folders for page in folder.glob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", own_pages(), ids=lambda page: page.stem)
def test_files_outside_the_site_are_there(page: Path) -> None:
    for target in TARGET.findall(CODE.sub("", page.read_text())):
        path = page.parent / target.partition("#")[0]
        if not path.resolve().is_relative_to(DOCS):  # mkdocs looks after the others
            assert "://" in target or path.exists(), target


def test_a_repository_is_linked(links: ModuleType) -> None:
    text = "See [the kernel](../../csrc/cuda/nms.cu#L5), [all](../../csrc/cuda) and [b](../nms.md)."
    assert links.for_site(text, "kernels/nms.md", "https://host/us/focaldet/") == (
        "See [the kernel](https://host/us/focaldet/blob/main/csrc/cuda/nms.cu#L5), "
        "[all](https://host/us/focaldet/tree/main/csrc/cuda) and [b](../nms.md)."
    )


def test_without_one_the_text_stays(links: ModuleType) -> None:
    text = "[csrc/stable.h](../csrc/stable.h), ![picture](../../README.md)"
    assert links.for_site(text, "index.md", None) == "csrc/stable.h, ![picture](../../README.md)"


def test_a_file_that_is_gone_is_reported(
    links: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="mkdocs.hooks.links"):
        links.for_site("[x](../../csrc/gone.cu)", "kernels/nms.md", None)
    assert "kernels/nms.md: there is no csrc/gone.cu" in caplog.text
