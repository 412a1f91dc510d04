"""Where folders in YOLO's form have class names, images and labels: there are many habits.

- data.yaml (or the one .yaml file): `names`, and for each split a folder of images, a list of them,
  or several; below `path`, where that exists, or beside the file.
- classes.txt, obj.names or classes.names, a name a line, in the folder or its labels/.
- images/train, train/images or train; or a list train.txt; or, of no split, images.
- The labels of a/images/b.jpg are a/labels/b.txt, and beside the image where no folder is `images`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from ..errors import UserError
from .images import inside

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2")
YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAMES = ("classes.txt", "obj.names", "classes.names", "labels/classes.txt")
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "val": ("valid", "validation"),
    "train": ("training",),
}  # of a split
FORM = "expected data.yaml, classes.txt or obj.names, and images/train, train/images or train.txt"


def is_yolo(folder: Path) -> bool:
    """Whether a folder looks like one of this form: it says what its classes are called."""
    return _yaml_in(folder) is not None or any((folder / name).is_file() for name in NAMES)


class Layout(NamedTuple):
    folder: Path  # what the names of images are relative to
    described: dict[str, Any]  # data.yaml, or empty: texts, lists and dicts of texts
    described_in: Path


def layout(root: str | Path) -> Layout:
    """Of a folder, or of a .yaml file, which describes one."""
    given = Path(root)
    if not given.exists():
        raise UserError(f"{str(root)!r} does not exist; expected a folder in YOLO's form: {FORM}")
    file = given if given.is_file() else _yaml_in(given)
    folder = given.parent if given.is_file() else given
    if file is None:
        return Layout(folder, {}, folder)
    described = _read_yaml(file)
    path = described.get("path")
    if isinstance(path, str) and path and (folder / path).is_dir():
        folder = folder / path
    return Layout(folder, described, file)


def class_names(found: Layout) -> list[str]:
    """In the order of their numbers. Raises `UserError` where there are none."""
    names = found.described.get("names")
    if isinstance(names, dict):  # number: name
        numbers = [str(number) for number in range(len(names))]
        if set(names) != set(numbers):
            raise _wrong(found, "names", f"has the keys {', '.join(names)}", "0, 1, ...")
        names = [names[number] for number in numbers]
    if names is None:
        file = next((f for n in NAMES if (f := found.folder / n).is_file()), None)
        if file is None:
            raise UserError(f"{str(found.described_in)!r} names no classes; {FORM}")
        names = lines(file)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise _wrong(found, "names", "is no list of texts", "a list of names")
    count = found.described.get("nc", str(len(names)))
    if count != str(len(names)):
        raise _wrong(found, "nc", f"is {count}, names has {len(names)}", "as many names")
    return names


def has_split(found: Layout, split: str) -> bool:
    """Whether it is named or there; what is named may be missing, which `images_of` says."""
    return _named(found, split) is not None


def images_of(found: Layout, split: str) -> tuple[str, list[str]]:
    """Where a split is said to be, and the names of its images, relative to the folder."""
    named = _named(found, split)
    if named is None:
        raise UserError(f"{str(found.described_in)!r} has no split {split!r}; {FORM}")
    source, values = named
    return source, _names(found.folder, [_place(found, value) for value in values])


def _named(found: Layout, split: str) -> tuple[str, list[Any]] | None:
    """Where folders and lists are named, and they as they are named there."""
    for name in (split, *OTHER_NAMES.get(split, ())):
        if value := found.described.get(name):
            values = value if isinstance(value, list) else [value]
            return f"{found.described_in}: {name}", values
        for place in (f"images/{name}", f"{name}/images", f"{name}.txt", name):
            if (path := found.folder / place).exists():
                return str(path), [place]
    return None


def label_file(image: str) -> PurePath:
    """Of an image, both relative to the folder."""
    path = PurePath(image)
    parts = list(path.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return PurePath(*parts).with_suffix(".txt")


def lines(file: Path, empty: bool = False) -> list[str]:
    """Without space around them, and `empty` ones if asked for. `UserError` for what is no text."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise UserError(f"{file}: not a text file; expected UTF-8") from None
    return [line.strip() for line in text.splitlines() if empty or line.strip()]


def _yaml_in(folder: Path) -> Path | None:
    for name in YAML:
        if (folder / name).is_file():
            return folder / name
    others = [*folder.glob("*.yaml"), *folder.glob("*.yml")]
    return others[0] if len(others) == 1 else None


def _read_yaml(file: Path) -> dict[str, Any]:
    """All scalars as texts: a class may be called `no`, or 1."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise UserError(
            f'{file}: to read it pip install "focaldet[yolo]"; or name the classes in classes.txt'
        ) from None
    try:
        content = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected names, train and val, each behind a colon")
    return content


def _place(found: Layout, value: Any) -> Path:
    """The folder or list that data.yaml names."""
    if not isinstance(value, str):
        raise _wrong(found, "a split", "is no path", "a folder, a list of images, or several")
    # Roboflow writes ../train/images for what is train/images beside the file.
    for place in (value, value.removeprefix("../"), f"images/{value}"):
        if (path := found.folder / place).exists():
            return path
    raise _wrong(found, value, "is not there", f"a path below {str(found.folder)!r}")


def _names(folder: Path, places: Iterable[Path]) -> list[str]:
    """The images of folders and lists, relative to `folder`."""
    names: list[str] = []
    for place in places:
        if place.is_dir():
            files = (file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES)
            names += sorted(os.path.relpath(file, folder) for file in files)
        else:
            names += [_listed(folder, place.parent, line) for line in lines(place)]
    for name in names:
        if name.startswith(".."):
            inside(folder, name)  # says that it leads out
    return names


def _listed(folder: Path, beside: Path, line: str) -> str:
    """An image that a list names, from its own folder or from the data set's."""
    start = beside if (beside / line).is_file() else folder
    return os.path.relpath(start / line, folder)


def _wrong(found: Layout, key: str, what: str, expected: str) -> UserError:
    return UserError(f"{found.described_in}: {key} {what}; expected {expected}")
