"""Records are the dataclasses that they are declared like."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from pimc.record import record

T = TypeVar("T")
PLAIN = dataclass(frozen=True, slots=True)


def declared(decorator: Callable[[type], Any]) -> tuple[Any, Any]:
    @decorator
    class Shape:
        """What has a name."""

        name: str
        kind: ClassVar[str] = "shape"
        tags: list[str] = field(default_factory=list)
        note: object = field(default=None, compare=False, repr=False)

        def area(self) -> int:
            return 0

    @decorator
    class Box(Shape):  # type: ignore[misc, valid-type]  # a base made by a call
        """Has corners."""

        width: int = 1
        height: int = 2

        def __post_init__(self) -> None:
            if self.width < 0:
                raise ValueError("negative width")

        def area(self) -> int:
            return self.width * self.height

    return Shape, Box


@pytest.fixture(params=[0, 1], ids=["base", "derived"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return declared(PLAIN)[request.param], declared(record)[request.param]


def test_of_the_same_declaration_come_the_same_fields_and_signature(pair: tuple[Any, Any]) -> None:
    plain, made = pair
    assert [(f.name, f.type, f.default, f.default_factory) for f in fields(made)] == [
        (f.name, f.type, f.default, f.default_factory) for f in fields(plain)
    ]
    for attribute in ("__match_args__", "__slots__", "__doc__", "__module__", "__qualname__", "kind"):
        assert getattr(made, attribute) == getattr(plain, attribute), attribute
    assert str(inspect.signature(made)) == str(inspect.signature(plain))
    assert is_dataclass(made)


def test_instances_print_compare_and_hash_alike(pair: tuple[Any, Any]) -> None:
    plain, made = pair
    assert repr(made("a", ["x"])) == repr(plain("a", ["x"]))
    assert made("a") == made(name="a", note="differs")
    assert made("a") != made("b")
    assert made("a") != plain("a")
    assert made("a").tags is not made("a").tags
    assert hash(made("a", ())) == hash(plain("a", ()))
    assert asdict(made("a")) == asdict(plain("a"))
    assert replace(made("a"), name="c") == made("c")
    assert copy.copy(made("a")) == made("a")


def test_what_a_class_writes_itself_stays() -> None:
    _, box = declared(record)
    assert box("a", width=3).area() == 6
    with pytest.raises(ValueError, match="negative width"):
        box("a", width=-1)

    @record
    class Deep(box):  # type: ignore[misc, valid-type]  # a base made by a call
        depth: int = 1

        @property
        def volume(self) -> int:
            return super().area() * self.depth

    assert Deep("a", width=3, depth=2).volume == 12

    @record
    class Even:
        number: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Even)

        def __repr__(self) -> str:
            return "even"

    assert Even(1) == Even(3)
    assert repr(Even(1)) == "even"
    assert hash(Even(1)) == hash((1,))


@pytest.mark.parametrize("change", [lambda b: setattr(b, "width", 2), lambda b: delattr(b, "width")])
def test_nothing_can_be_assigned(change: Callable[[Any], None]) -> None:
    _, box = declared(record)
    with pytest.raises(FrozenInstanceError):
        change(box("a"))


@pytest.mark.parametrize("arguments", [(), ("a", [], None, 1, 2, 3)])
def test_wrong_arguments_are_told_as_python_tells_them(pair: tuple[Any, Any], arguments: tuple[Any, ...]) -> None:
    plain, made = pair
    with pytest.raises(TypeError) as expected:
        plain(*arguments)
    with pytest.raises(TypeError) as told:
        made(*arguments)
    assert str(told.value) == str(expected.value)


def test_a_default_comes_after_all_fields_without_one() -> None:
    with pytest.raises(TypeError, match="Wrong: a field without a default follows"):

        @record
        class Wrong:
            first: int = 1
            second: int  # type: ignore[misc]  # what is tested


@record
class Pair(Generic[T]):
    first: T
    second: T

    @cached_property
    def both(self) -> tuple[T, T]:
        return self.first, self.second


def test_records_are_pickled_and_keep_what_they_have_found_out() -> None:
    pair = Pair(1, 2)
    assert pair.both is pair.both
    assert pickle.loads(pickle.dumps(pair)) == pair
    match pair:
        case Pair(first, second):
            assert (first, second) == (1, 2)


def test_dataclasses_and_records_derive_from_each_other() -> None:
    shape, _ = declared(record)

    @dataclass(frozen=True)
    class Ring(shape):  # type: ignore[misc, valid-type]  # a base made by a call
        radius: int = 0

    @record
    class Thick(Ring):
        width: int = 1

    assert Thick("a", radius=3) == Thick("a", [], None, 3, 1)
    assert [f.name for f in fields(Thick)] == ["name", "tags", "note", "radius", "width"]
