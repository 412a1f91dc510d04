"""Pickles of NumPy arrays, as in detectron2's model zoo, without what makes pickle unsafe.

Unpickling calls whatever functions a file names. Here it may name a handful, and gets functions of
this module in their place: an array is read as a type code, a shape and bytes, and nothing of NumPy
takes the file's word for more. What comes out are dicts, lists, strings, numbers and arrays.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np

Order = Literal["C", "F"]
KINDS = frozenset("?bhilqBHILQefd")  # type characters of bools, integers and floats


def read_arrays(data: bytes) -> Any:
    """The contents of a pickle. Raises ValueError, in one line, for one that names anything but
    arrays of numbers and plain containers, for a truncated one, and for what is none."""
    try:
        return _finished(_Unpickler(io.BytesIO(data), encoding="latin1").load())
    except _Refused as refused:
        raise ValueError(str(refused)) from None
    except Exception as error:  # a broken pickle may end in any of them
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"no pickle, or a truncated one ({reason})") from error


class _Refused(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        path = f"{module.replace('numpy.core', 'numpy._core')}.{name}"
        if path not in _STANDINS:
            raise _Refused(f"it names {module}.{name}, where only arrays of numbers are read")
        # A new object each time: what the file may do to it ends with it.
        return partial(_STANDINS[path])

    def persistent_load(self, number: Any) -> Any:
        raise _Refused("it refers to objects outside of it")


class _Type:
    """Stands for a dtype while its pickle is read."""

    def __init__(self, code: str, *_: Any) -> None:
        numeric = str(code)[1:].isdigit()
        if not numeric or np.dtype(str(code)).char not in KINDS:
            raise _Refused(f"it holds an array of type {code!r}, where numbers are read")
        self.type: np.dtype[Any] = np.dtype(str(code))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):  # the byte order; the rest describes types that are refused
            self.type = self.type.newbyteorder(state[1])


class _Array:
    """Stands for an array while its pickle is read."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        if isinstance(content, str):  # written by Python 2
            content = content.encode("latin1")
        self.array = _array(content, kind, shape, "F" if fortran else "C")


def _array(content: bytes, kind: _Type, shape: tuple[int, ...], order: Order = "C") -> np.ndarray:
    shape = tuple(int(side) for side in shape)
    if min(shape, default=0) < 0 or math.prod(shape) * kind.type.itemsize != len(content):
        raise _Refused(f"it holds an array {shape} in {len(content)} bytes")
    flat = np.frombuffer(bytes(content), kind.type)
    array: np.ndarray = flat.reshape(shape, order=order).astype(kind.type.newbyteorder("="))
    return array


def _text(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how protocol 2 writes bytes, in this encoding only


_STANDINS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _text,
    "__builtin__.bytes": lambda: b"",  # protocol 2 of no bytes
    "numpy.ndarray": lambda: _Array(),
    "numpy.dtype": _Type,
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray.scalar": lambda kind, content: _array(content, kind, ()),
    "numpy._core.numeric._frombuffer": _array,
}


def _finished(tree: Any) -> Any:
    """The tree with arrays in place of what stood for them."""
    if isinstance(tree, _Array):
        if tree.array is None:
            raise _Refused("it holds an array without contents")
        return tree.array
    if isinstance(tree, dict):
        return {key: _finished(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finished(value) for value in tree]
    return tree
