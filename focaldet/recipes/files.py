"""Recipes as files: which ship with the package, and what is in one."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("model", "anchors", "data", "train", "expected")


def names() -> list[str]:
    """Of the recipes that ship with the package: those for data of one's own, then COCO's."""
    return list(_shipped())


def _shipped() -> dict[str, Path]:
    here = Path(__file__).parent
    folders = here, here / "coco"
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def find(name: str | Path) -> Path:
    """The file of a recipe that ships with the package, or one whose name ends with .toml."""
    if Path(name).suffix == ".toml":
        return Path(name)
    shipped = _shipped()
    if str(name) not in shipped:
        near = get_close_matches(str(name), shipped, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"recipe {name}: unknown; expected one of {', '.join(shipped)}, or a file whose name "
            f"ends with .toml{hint}"
        )
    return shipped[str(name)]


def read(name: str | Path) -> dict[str, Any]:
    """What a file says, with what its base says where it is silent. `UserError` for what is not
    there, or not a recipe."""
    return _read(find(name).resolve(), str(name), ())


def _read(path: Path, name: str, above: tuple[Path, ...]) -> dict[str, Any]:
    content = _parse(path, name)
    if "base" not in content:
        return content
    base = Path(content.pop("base"))
    base = find(path.parent / base if base.suffix == ".toml" else base).resolve()
    if base in (path, *above):
        raise UserError(f"recipe {name}: is its own base, by {base.name}; expected another one")
    below = _read(base, str(base), (path, *above))
    merged = {table: {**below.get(table, {}), **content.get(table, {})} for table in TABLES[:-1]}
    return content | merged  # what is expected of the base is not expected of this one


def _parse(path: Path, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"recipe {name}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise UserError(f"recipe {name}: not TOML ({error})") from None
    for key, value in content.items():
        kind = {"about": str, "base": str, **dict.fromkeys(TABLES, dict)}.get(key)
        if kind is None or not isinstance(value, kind):
            raise UserError(
                f"recipe {name}: {key}; expected texts `about` and `base`, and tables of "
                f"{', '.join(TABLES)}"
            )
    return content
