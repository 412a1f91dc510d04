"""`python tests/stubs.py`: writes focaldet/torch_ops.pyi, a typed function for each operator, from
the schemas that the extension registers. `--check` changes nothing, and exits with 1 if the file is
not what the schemas say."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import focaldet  # noqa: F401, registers the operators

STUB = Path(__file__).parents[1] / "focaldet" / "torch_ops.pyi"
HEAD = """\
# Written by tests/stubs.py from the operators' schemas (csrc/ops.cpp): do not edit.
from collections.abc import Sequence

from torch import Tensor
"""
ARGUMENTS = {
    "Tensor": "Tensor",
    "Optional[Tensor]": "Tensor | None",
    "List[Tensor]": "Sequence[Tensor]",
    "List[float]": "Sequence[float]",
    "List[int]": "Sequence[int]",
    "List[SymInt]": "Sequence[int]",
    "SymInt": "int",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
}
RESULTS = {"Tensor": "Tensor", "List[Tensor]": "list[Tensor]"}


def render() -> str:
    """The stub; KeyError for a schema with a type that no operator had before."""
    schemas = torch._C._jit_get_all_schemas()
    ours = {s.name: s for s in schemas if s.name.startswith("focaldet::")}
    return "\n".join([HEAD, *(_function(ours[name]) for name in sorted(ours))])


def _function(schema: torch._C.FunctionSchema) -> str:
    lines = [f"def {schema.name.removeprefix('focaldet::')}("]
    for argument in schema.arguments:
        if argument.kwarg_only or argument.has_default_value():
            raise ValueError(f"{schema.name}: expected plain arguments without defaults")
        lines.append(f"    {argument.name}: {ARGUMENTS[str(argument.type)]},")
    results = [RESULTS[str(result.type)] for result in schema.returns]
    result = results[0] if len(results) == 1 else f"tuple[{', '.join(results)}]"
    return "\n".join([*lines, f") -> {result}: ..."])


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        same = STUB.read_text() == render() + "\n"
        print(f"{STUB.name}: {'as' if same else 'not what'} the schemas say")
        return 0 if same else 1
    STUB.write_text(render() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
