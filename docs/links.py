"""A hook of mkdocs: links from a page to what lies outside docs/, such as the sources of a kernel.

On GitHub they are relative links like others. A site has no such files: there they lead to the
repository, where mkdocs.yml names one (repo_url), and are plain text else.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(
    r"(?<!!)\[(?P<text>[^\[\]]+)\]\((?P<target>\.\./[^()#\s]+)(?P<anchor>#[^()\s]*)?\)"
)

log = logging.getLogger("mkdocs.hooks.links")  # its warnings fail a strict build


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    return for_site(markdown, page.file.src_uri, config.repo_url)


def for_site(markdown: str, source: str, repository: str | None) -> str:
    """The Markdown of a page, by its path below docs/, with these links as a site can have them."""

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(
            posixpath.join("docs", posixpath.dirname(source), match["target"])
        )
        if path.startswith("docs/"):
            return match[0]
        if not (ROOT / path).exists():
            log.warning(f"{source}: there is no {path}, to which it links")
        if not repository:
            return match["text"]
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        address = f"{repository.rstrip('/')}/{kind}/main/{path}{match['anchor'] or ''}"
        return f"[{match['text']}]({address})"

    return LINK.sub(link, markdown)
