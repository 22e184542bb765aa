"""Arithmetic and comparisons on vectors: what operators mean to a compiler of Numba's, on whatever device.

Numba compiles for GPUs with types, templates and registries of its own, so that it must be told everything twice: here
is what, and `Compiler` is whom.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

# operator: LLVM's instruction for floats, for whole numbers, and what it compares by
_OPERATORS: dict[Callable[..., Any], tuple[str | None, str | None, str]] = {
    operator.add: ("fadd", "add", ""),
    operator.sub: ("fsub", "sub", ""),
    operator.mul: ("fmul", "mul", ""),
    operator.truediv: ("fdiv", None, ""),
    operator.lshift: (None, "shl", ""),
    operator.rshift: (None, "ashr", ""),
    operator.and_: (None, "and_", ""),
    operator.or_: (None, "or_", ""),
    operator.lt: ("fcmp_ordered", "icmp_signed", "<"),  # ordered: false where either is NaN
    operator.le: ("fcmp_ordered", "icmp_signed", "<="),
    operator.gt: ("fcmp_ordered", "icmp_signed", ">"),
    operator.ge: ("fcmp_ordered", "icmp_signed", ">="),
    operator.eq: ("fcmp_ordered", "icmp_signed", "=="),
    operator.ne: ("fcmp_unordered", "icmp_signed", "!="),
}


class Compiler(NamedTuple):
    """What Numba has twice, for CPUs and for GPUs."""

    types: Any  # its module
    infer_global: Any
    template: Any  # AbstractTemplate
    signature: Any
    lower_builtin: Any


def define(compiler: Compiler, vector: Any, as_vector: Callable[..., Any]) -> None:
    """Give the operators a meaning for two vectors, or a vector and a number, which stands for a vector of it.

    ``vector`` is the class of the vectors' types, ``as_vector`` makes one of a number: (context, builder, value, its
    type, type of the vector).
    """
    for function, meaning in _OPERATORS.items():
        _define_one(compiler, vector, as_vector, function, *meaning)


def _define_one(
    compiler: Compiler,
    vector: Any,
    as_vector: Callable[..., Any],
    function: Callable[..., Any],
    on_float: str | None,
    on_int: str | None,
    compare: str,
) -> None:
    types = compiler.types

    @compiler.infer_global(function)
    class Typing(compiler.template):  # type: ignore[misc, name-defined]
        def generic(self, args: tuple[Any, ...], kws: object) -> Any:
            vectors = [a for a in args if isinstance(a, vector)]
            if len(args) == 2 and vectors and all(isinstance(a, (vector, types.Number)) for a in args):
                return compiler.signature(vectors[0].of(types.boolean) if compare else vectors[0], *args)
            return None

    def lower(context: Any, builder: Any, sig: Any, args: tuple[Any, ...]) -> Any:
        kind = next(a for a in sig.args if isinstance(a, vector))
        a, b = (as_vector(context, builder, v, t, kind) for v, t in zip(args, sig.args, strict=True))
        name = on_float if isinstance(kind.element, types.Float) else on_int
        if name is None:
            raise TypeError(f"{function.__name__} is not defined for {kind}")
        build = getattr(builder, name)
        return build(compare, a, b) if compare else build(a, b)

    for left, right in ((vector, vector), (vector, types.Number), (types.Number, vector)):
        compiler.lower_builtin(function, left, right)(lower)
