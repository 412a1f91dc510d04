"""Hooks of mkdocs: the pictures of the pages, which docs/pictures/ draws anew in every build."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from docs.pictures import draw_all  # not before a build: needs the extension

    for name, svg in draw_all().items():
        files.append(File.generated(config, f"pictures/{name}.svg", content=svg))
    return files
