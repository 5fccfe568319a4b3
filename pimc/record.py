"""Frozen classes that are quick to declare: `@record` gives what `@dataclass(frozen=True, slots=True)` gives.

`dataclass` writes and compiles the text of six methods for each class, which is most of what importing many small ones
takes. All but names, these methods depend on how many fields there are: here they are compiled once for a number of
fields (`pimc/record_code.py`), and each class has them with the names of its own.
"""

from __future__ import annotations

from dataclasses import Field, FrozenInstanceError, dataclass, field, fields, is_dataclass
from functools import cached_property
from reprlib import recursive_repr
from types import FunctionType
from typing import Any, NoReturn, TypeVar, dataclass_transform

from pimc.record_code import equals, hashes, initializes

C = TypeVar("C", bound=type)
Fields = dict[str, Field[Any]]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: C) -> C:
    """The class, frozen and with slots; where it has cached properties, with a `__dict__` for them.

    Fields are declared as those of a dataclass, and `dataclasses.fields`, `replace` and `asdict` know them. All of them
    are arguments by position or name: there is no `InitVar`, `init=False` or `kw_only`.
    Raises TypeError for a field without a default behind one that has a default.
    """
    known = {**_inherited_fields(cls), **_own_fields(cls)}
    written = _written(cls, known)
    members = {**_SHARED, **_compared(cls, known), **written, **_shape(cls, known)}
    kind: Any = type(cls)
    made: C = kind(cls.__name__, cls.__bases__, members)
    made.__qualname__ = cls.__qualname__
    if "__init__" not in written:
        type.__setattr__(made, "__init__", initializes(made, list(known.values())))
    _rebind(cls, made)
    return made


def _own_fields(cls: type) -> Fields:
    """What `dataclass` makes of the annotations of the class and of the values beside them."""
    annotations = vars(cls).get("__annotations__", {})
    beside = {name: vars(cls)[name] for name in annotations if name in vars(cls)}
    declared = {"__doc__": "fields", "__module__": cls.__module__, "__annotations__": annotations, **beside}
    bare: Any = type("", (), declared)
    return {f.name: f for f in fields(dataclass(init=False, repr=False, eq=False)(bare))}


def _inherited_fields(cls: type) -> Fields:
    return {f.name: f for base in cls.__mro__[:0:-1] if is_dataclass(base) for f in fields(base)}


def _written(cls: type, known: Fields) -> dict[str, object]:
    """What stands in the class beside its fields."""
    members = {name: value for name, value in vars(cls).items() if name not in known and name not in _OF_A_DICT}
    if "__eq__" in members and members["__hash__"] is None:  # Python's own entry
        del members["__hash__"]
    return members


def _shape(cls: type, known: Fields) -> dict[str, object]:
    held = {slot for base in cls.__mro__[1:] for slot in vars(base).get("__slots__", ())}
    cached = any(isinstance(member, cached_property) for member in vars(cls).values())
    return {
        "__slots__": (*(name for name in known if name not in held), *(("__dict__",) if cached else ())),
        "__match_args__": tuple(known),
        "__dataclass_fields__": known,
    }


def _compared(cls: type, known: Fields) -> dict[str, object]:
    hashed = [name for name, f in known.items() if (f.compare if f.hash is None else f.hash)]
    return {
        "__eq__": equals(cls, [name for name, f in known.items() if f.compare]),
        "__hash__": hashes(cls, hashed),
    }


def _rebind(cls: type, made: type) -> None:
    """Makes `super()` in methods mean the class that there is now: all methods of a class find it in one cell."""
    for member in vars(cls).values():
        method = getattr(member, "__func__", None) or getattr(member, "fget", None) or getattr(member, "func", member)
        if isinstance(method, FunctionType) and "__class__" in method.__code__.co_freevars:
            cell = (method.__closure__ or ())[method.__code__.co_freevars.index("__class__")]
            if cell.cell_contents is cls:
                cell.cell_contents = made
                return


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse_to_set(self: object, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[object]:
    return [getattr(self, f.name) for f in fields(self)]


def _set_state(self: Any, state: list[object]) -> None:
    for f, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """Has what `dataclass` knows of classes that are frozen."""


_OF_A_DICT = ("__dict__", "__weakref__")
_SHARED = {
    "__dataclass_params__": vars(_Frozen)["__dataclass_params__"],
    "__repr__": _repr,
    "__setattr__": _refuse_to_set,
    "__delattr__": _refuse_to_delete,
    "__getstate__": _state,
    "__setstate__": _set_state,
}
