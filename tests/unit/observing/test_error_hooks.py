"""Hooks that are told of handlers' errors: the class side."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from starling import Agent, Context, on_error
from starling.agent import definition
from starling.error_hooks import ErrorHooks
from starling.errors import ModelFailed, OutsideFailed, SpecError

CTX = cast("Context", None)


class Watched(Agent, type="watched_by_hooks"):
    def __init__(self) -> None:
        self.told: list[str] = []

    @on_error(OutsideFailed, LookupError)
    async def outside(self, error: Exception, ctx: Context) -> None:
        self.told.append(f"outside: {error}")

    @on_error(ModelFailed)
    async def model(self, error: ModelFailed, ctx: Context) -> None:
        self.told.append(f"model: {error}")

    @on_error(ZeroDivisionError)
    async def broken(self, error: ZeroDivisionError, ctx: Context) -> None:
        raise RuntimeError("the hook itself fails")


def hooks() -> ErrorHooks:
    found = definition(Watched).error_hooks
    assert found is not None
    return found


async def tell(error: Exception) -> list[str]:
    agent = Watched()
    await hooks().run(agent, error, CTX)
    return agent.told


async def test_the_hook_of_the_nearest_class_is_told() -> None:
    assert await tell(KeyError("k")) == ["outside: 'k'"]
    assert await tell(OutsideFailed("down")) == ["outside: down"]
    assert await tell(ModelFailed("busy")) == ["model: busy"]


def test_errors_without_a_hook_are_not_covered() -> None:
    assert hooks().covers(ModelFailed("x"))
    assert not hooks().covers(ValueError("x"))


async def test_a_hook_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "starling.error_hooks"):
        assert await tell(ZeroDivisionError()) == []
    assert "the hook itself fails" in caplog.text


async def test_a_hook_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starling.error_hooks.TIMEOUT", 0.01)

    async def hang(agent: Any, error: Exception, ctx: Context) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        await ErrorHooks({Exception: hang}).run(None, ValueError(), CTX)


def test_a_class_without_hooks_has_none() -> None:
    class Plain(Agent, type="plain_without_hooks"):
        pass

    assert definition(Plain).error_hooks is None


def test_two_hooks_for_the_same_errors_are_refused() -> None:
    with pytest.raises(SpecError, match=r"Twice\.second: is for ValueError as 'first' is"):

        class Twice(Agent, type="twice_hooked"):
            @on_error(ValueError)
            async def first(self, error: Exception, ctx: Context) -> None: ...

            @on_error(ValueError)
            async def second(self, error: Exception, ctx: Context) -> None: ...


def test_a_hook_is_async_takes_error_and_context_and_names_its_errors() -> None:
    with pytest.raises(SpecError, match="must be `async def`"):

        @on_error(ValueError)  # type: ignore[type-var]
        def plain(self: object, error: Exception, ctx: Context) -> None: ...

    with pytest.raises(SpecError, match="takes `self`, the error and the context"):

        @on_error(ValueError)
        async def short(self: object, error: Exception) -> None: ...

    with pytest.raises(SpecError, match="name the classes"):
        on_error()
    with pytest.raises(SpecError, match="no class of errors"):
        on_error("ValueError")  # type: ignore[arg-type]
