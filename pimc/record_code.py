"""The methods of records: compiled once for a number of fields, and given the names of each class's own.

A field is set through the slot's own descriptor, which a method finds in a cell: that takes two thirds of the time of
`object.__setattr__` with a name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field
from functools import cache
from types import CellType, CodeType, FunctionType
from typing import Any


class _Factory:
    """Stands for the argument of a field that has a factory."""

    def __repr__(self) -> str:
        return "<factory>"


_ABSENT = _Factory()


def initializes(cls: type, fields: Sequence[Field[Any]]) -> FunctionType:
    """`__init__` of a class whose arguments are its fields; calls `__post_init__` where there is one."""
    optional = [f for f in fields if _is_optional(f)]
    if optional and optional != list(fields[-len(optional) :]):
        raise TypeError(f"{cls.__name__}: a field without a default follows one that has a default")
    factories = tuple(n for n, f in enumerate(fields) if f.default_factory is not MISSING)
    code = _init_code(len(fields), factories, hasattr(cls, "__post_init__"))
    cells: dict[str, object] = {"absent": _ABSENT}
    cells |= {f"set{n}": getattr(cls, f.name).__set__ for n, f in enumerate(fields)}
    cells |= {f"make{n}": fields[n].default_factory for n in factories}
    method = FunctionType(
        _of(cls, code).replace(co_varnames=("self", *(f.name for f in fields))),
        vars(sys.modules[cls.__module__]),
        argdefs=tuple(_ABSENT if f.default is MISSING else f.default for f in optional),
        closure=tuple(CellType(cells[name]) for name in code.co_freevars),
    )
    method.__annotations__ = {**{f.name: f.type for f in fields}, "return": None}
    return method


def _is_optional(f: Field[Any]) -> bool:
    return f.default is not MISSING or f.default_factory is not MISSING


def equals(cls: type, names: Sequence[str]) -> FunctionType:
    """`__eq__`: of the same class, with equal values of these fields."""
    return _named(_eq_code(len(names)), cls, names)


def hashes(cls: type, names: Sequence[str]) -> FunctionType:
    """`__hash__` of the values of these fields."""
    return _named(_hash_code(len(names)), cls, names)


@cache
def _init_code(count: int, factories: tuple[int, ...], checked: bool) -> CodeType:
    given = [f"make{n}() if _{n} is absent else _{n}" if n in factories else f"_{n}" for n in range(count)]
    lines = [f"set{n}(self, {value})" for n, value in enumerate(given)]
    lines += ["self.__post_init__()"] if checked else []
    cells = ["absent", *(f"set{n}" for n in range(count)), *(f"make{n}" for n in factories)]
    return _compiled("__init__", ["self", *(f"_{n}" for n in range(count))], lines or ["pass"], cells)


@cache
def _eq_code(count: int) -> CodeType:
    own, others = _values("self", count), _values("other", count)
    lines = ["if other.__class__ is self.__class__:", f" return {own} == {others}", "return NotImplemented"]
    return _compiled("__eq__", ["self", "other"], lines)


@cache
def _hash_code(count: int) -> CodeType:
    return _compiled("__hash__", ["self"], [f"return hash({_values('self', count)})"])


def _values(of: str, count: int) -> str:
    """The tuple of the fields."""
    return "(" + "".join(f"{of}._{n}, " for n in range(count)) + ")"


def _compiled(name: str, arguments: Sequence[str], lines: Sequence[str], cells: Sequence[str] = ()) -> CodeType:
    """A method that takes what is in the cells from the function around it."""
    body = "\n".join(f"  {line}" for line in lines)
    text = f"def around({', '.join(cells)}):\n def {name}({', '.join(arguments)}):\n{body}\n"
    around = next(c for c in compile(text, "<record>", "exec").co_consts if isinstance(c, CodeType))
    return next(c for c in around.co_consts if isinstance(c, CodeType))


def _named(code: CodeType, cls: type, names: Sequence[str]) -> FunctionType:
    """The method with the fields of these names for `_0`, `_1` and so on."""
    new = {f"_{n}": name for n, name in enumerate(names)}
    renamed = tuple(new.get(name, name) for name in code.co_names)
    return FunctionType(_of(cls, code).replace(co_names=renamed), globals())


def _of(cls: type, code: CodeType) -> CodeType:
    """The code as tracebacks and profiles tell it from that of other classes."""
    place = f"<record {cls.__module__}.{cls.__qualname__}>"
    return code.replace(co_filename=place, co_qualname=f"{cls.__qualname__}.{code.co_name}")
