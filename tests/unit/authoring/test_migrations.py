"""State of older versions, and of newer ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import BaseModel
from starling import Agent, cells, migrate
from starling.agent import definition
from starling.errors import SpecError, StateUnreadable


class Size(BaseModel):
    width_m: float = 0.0
    height_m: float = 0.0


class Part(BaseModel):
    name: str = ""


class Box(Agent[Size], version=3):
    parts = cells(Part)

    @migrate(1)
    @staticmethod
    def in_metres(old: dict[str, Any]) -> dict[str, Any]:
        return {"width_m": old["width_cm"] / 100}

    @classmethod
    @migrate(2)
    def with_height(cls, old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "height_m": 2.0}

    @migrate(2, "parts")
    @staticmethod
    def with_name(old: dict[str, Any]) -> dict[str, Any]:
        return {"name": old["title"]}


@pytest.mark.row("RT-38", part="migrators")
@pytest.mark.parametrize(
    ("version", "stored", "expected"),
    [
        (1, b'{"width_cm": 150}', Size(width_m=1.5, height_m=2.0)),
        (2, b'{"width_m": 1.5}', Size(width_m=1.5, height_m=2.0)),
        (3, b'{"width_m": 1.5, "height_m": 1.0}', Size(width_m=1.5, height_m=1.0)),
    ],
)
def test_state_of_each_older_version_loads_through_the_chain(version: int, stored: bytes, expected: Size) -> None:
    made = definition(Box)
    assert made.load_state(made.upgraded(stored, version)) == expected
    assert made.state_version == 3


def test_bytes_of_our_own_version_are_not_touched() -> None:
    stored = b'{"width_m" : 1.5}'
    assert definition(Box).upgraded(stored, 3) is stored


@pytest.mark.row("RT-38", part="missing migrator")
def test_a_missing_migrator_and_a_newer_version_are_errors_and_no_fresh_state() -> None:
    class Later(Agent[Size], version=3):
        @migrate(2)
        @staticmethod
        def second(old: dict[str, Any]) -> dict[str, Any]:
            return old

    with pytest.raises(StateUnreadable, match=r"state of later: stored by version 1, and no @migrate\(1\)"):
        definition(Later).upgraded(b"{}", 1)
    with pytest.raises(StateUnreadable, match=r"stored by version 4, and this code is of version 3; deploy newer code"):
        definition(Later).upgraded(b"{}", 4)


def test_a_gap_between_migrators_of_the_state_is_refused_when_the_class_is_made() -> None:
    text = r"Gap\.version: is 4, and state of version 1 does not get there: add @migrate\(2\), .* fields of version 3"
    with pytest.raises(SpecError, match=text):

        class Gap(Agent[Size], version=4):
            @migrate(1)
            @staticmethod
            def first(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]

            @migrate(3)
            @staticmethod
            def third(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]

    with pytest.raises(SpecError, match=r"Short\.version: is 3, .* version 1 .*: add @migrate\(2\)"):

        class Short(Agent[Size], version=3):
            @migrate(1)
            @staticmethod
            def first(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]


def test_a_version_without_any_migrator_and_one_whose_cells_alone_have_some_are_taken() -> None:
    class Bare(Agent[Size], version=5): ...

    class Celled(Agent[Size], version=4):
        parts = cells(Part)

        @migrate(1, "parts")
        @staticmethod
        def first(old: dict[str, Any]) -> dict[str, Any]:
            return {"name": old["title"]}

    assert definition(Bare).state_version == 5
    assert definition(Celled).migrations.upgraded(b'{"title":"lid"}', 1, "parts") == b'{"name":"lid"}'


def test_a_migrator_that_fails_is_named() -> None:
    with pytest.raises(StateUnreadable, match=r"state of box: @migrate\(1\) failed: KeyError: 'width_cm'"):
        definition(Box).upgraded(b"{}", 1)
    with pytest.raises(StateUnreadable, match="state of box"):
        definition(Box).upgraded(b"\xff", 1)


def test_cells_without_a_migrator_for_a_version_are_taken_as_they_are() -> None:
    migrations = definition(Box).migrations
    assert migrations.upgraded(b'{"title":"lid"}', 1, "parts") == b'{"name":"lid"}'


def test_numbers_that_json_does_not_know_survive_a_migration() -> None:
    class Wide(Agent[Size], version=2):
        @migrate(1)
        @staticmethod
        def first(old: dict[str, Any]) -> dict[str, Any]:
            return old

    made = definition(Wide)
    assert made.load_state(made.upgraded(made.dump_state(Size(width_m=math.inf)), 1)).width_m == math.inf


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0])
def test_a_migrator_from_no_version_is_refused(version: Any) -> None:
    with pytest.raises(SpecError, match="is no version"):
        migrate(version)


def test_wrong_migrators_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(SpecError, match=r"Early\.first: migrates from version 1, the class is of version 1"):

        class Early(Agent[Size]):
            @migrate(1)
            @staticmethod
            def first(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]

    with pytest.raises(SpecError, match=r"Twice\.second: is a second migrator from version 1 of state"):

        class Twice(Agent[Size], version=2):
            @migrate(1)
            @staticmethod
            def first(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]

            @migrate(1)
            @staticmethod
            def second(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]

    with pytest.raises(SpecError, match=r"Bound\.first: .* put @staticmethod"):

        class Bound(Agent[Size], version=2):
            @migrate(1)
            def first(self, old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]

    with pytest.raises(SpecError, match=r"migrates 'lids', which is no field of cells"):

        class Other(Agent[Size], version=2):
            @migrate(1, "lids")
            @staticmethod
            def first(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]

    with pytest.raises(SpecError, match="a migrator is a plain function"):

        class Waiting(Agent[Size], version=2):
            @migrate(1)
            @staticmethod
            async def first(old: dict[str, Any]) -> dict[str, Any]: ...  # type: ignore[empty-body]
