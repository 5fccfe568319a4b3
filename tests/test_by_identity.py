"""Answers kept for the very object asked about."""

from __future__ import annotations

from pimc.by_identity import MOST, by_identity


def test_an_object_is_asked_about_once_and_an_equal_one_anew() -> None:
    asked: list[list[int]] = []

    @by_identity
    def total(numbers: list[int]) -> int:
        asked.append(numbers)
        return sum(numbers)

    one, other = [1, 2], [1, 2]
    assert [total(one), total(one), total(other)] == [3, 3, 3]
    assert [id(each) for each in asked] == [id(one), id(other)]


def test_answers_for_few_objects_are_kept_and_none_is_given_for_another() -> None:
    """An object that nobody else holds is kept, so that no later one has its id."""
    made: list[object] = []

    @by_identity
    def text(number: list[int]) -> str:
        made.append(number)
        return str(number)

    for count in range(3):
        assert [text([n]) for n in range(MOST)] == [f"[{n}]" for n in range(MOST)]
        assert len(made) == (count + 1) * MOST
