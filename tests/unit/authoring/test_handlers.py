"""What makes a method a handler, and what is refused while the class is made."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from starling import Agent, Context, event, rpc
from starling.agent import definition
from starling.dispatch import Handler, suspends
from starling.errors import DecodeError, HandlerFailed, SpecError
from starling.handlers import Kind, message_handler

if TYPE_CHECKING:
    from somewhere import OnlyForCheckers  # type: ignore[import-not-found]


class Order(BaseModel):
    n: int = 0


class Receipt(BaseModel):
    n: int = 0


class LongReceipt(Receipt):
    more: str = ""


class Unrelated(BaseModel):
    n: int = 0


def handler(cls: type[Agent[Any]], name: str = "handle") -> Handler:
    return definition(cls).handlers[name]


@pytest.mark.row("RT-32")
def test_the_message_is_the_first_parameter_whatever_its_name() -> None:
    class Shop(Agent):
        @event
        async def handle(self, order: Order, whatever: Context) -> None: ...

        @event
        async def keyed(self, ctx: Receipt, /) -> None: ...

    assert [codec.cls for codec in handler(Shop).messages] == [Order]
    assert [codec.cls for codec in handler(Shop, "keyed").messages] == [Receipt]


@pytest.mark.row("RT-32")
@pytest.mark.parametrize("decorator", [event, rpc, message_handler])
def test_a_plain_function_is_refused(decorator: Callable[[Any], Any]) -> None:
    with pytest.raises(SpecError, match=r"handle: a handler must be `async def`"):

        class Blocking(Agent):
            @decorator
            def handle(self, message: Order) -> None: ...


def test_an_async_generator_is_refused() -> None:
    with pytest.raises(SpecError, match="async def"):

        class Streaming(Agent):
            @rpc
            async def handle(self, message: Order) -> Any:
                yield 1


@pytest.mark.row("RT-32")
def test_an_rpc_without_return_annotation_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Silent\.handle: an @rpc needs a return annotation"):

        class Silent(Agent):
            @rpc
            async def handle(self, message: Order):  # type: ignore[no-untyped-def]
                return 1


@pytest.mark.row("RT-32")
def test_an_event_that_declares_an_answer_warns_at_the_class() -> None:
    with pytest.warns(UserWarning, match=r"Answering\.handle is an @event") as caught:

        class Answering(Agent):
            @event
            async def handle(self, message: Order) -> Receipt:
                return Receipt()

    assert caught[0].filename == __file__


@pytest.mark.row("RT-32")
def test_an_event_that_returns_a_value_is_logged_and_nobody_gets_it(caplog: pytest.LogCaptureFixture) -> None:
    class Returning(Agent):
        @event
        async def handle(self, message: Order):  # type: ignore[no-untyped-def]
            return 5

    assert handler(Returning).encode_result(5) == ("none", b"null")
    assert [record.message for record in caplog.records] == ["an @event returned a value, which nobody gets"]
    handler(Returning).drop_result(None)
    assert len(caplog.records) == 1


def test_a_context_that_is_imported_for_type_checkers_only_is_no_problem() -> None:
    class Lean(Agent):
        @event
        async def handle(self, message: Order, ctx: OnlyForCheckers) -> None: ...

    assert handler(Lean).messages[0].cls is Order


async def no_annotation(self: Any, message) -> None: ...  # type: ignore[no-untyped-def]
async def no_message(self: Any) -> None: ...
async def too_many(self: Any, message: Order, ctx: Context, third: int) -> None: ...
async def keyword_only(self: Any, message: Order, *, third: int) -> None: ...
async def unknown_class(self: Any, message: OnlyForCheckers) -> None: ...
async def no_class(self: Any, message: Any) -> None: ...
async def parts(self: Any, message: list[Order]) -> None: ...
async def bad_result(self: Any, message: Order) -> set[int]: ...  # type: ignore[empty-body]
async def two_lists(self: Any, message: Order) -> list[int] | list[str]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (no_annotation, "'message' needs the message's class"),
        (no_message, "takes the message, and after it the context"),
        (too_many, "takes the message, and after it the context"),
        (keyword_only, "takes the message, and after it the context"),
        (unknown_class, "'message' cannot be read .*OnlyForCheckers.*; define or import the class above the agent"),
        (no_class, "use a pydantic model"),
        (parts, "a message needs a class of its own"),
        (bad_result, "use a pydantic model"),
        (two_lists, "answers two kinds of list"),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused_with_the_fix(function: Any, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as refused:
        type("Odd", (Agent,), {"handle": rpc(function)})
    assert refused.value.field == "Odd.handle"


@pytest.mark.parametrize("name", ["id", "state", "log", "type"])
def test_a_handler_may_not_hide_what_every_agent_has(name: str) -> None:
    async def function(self: Any, message: Order) -> None: ...

    with pytest.raises(SpecError):
        type("Hiding", (Agent,), {name: event(function)})


def test_a_decorator_above_event_is_refused_instead_of_losing_the_handler() -> None:
    def traced(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any:
            return await function(*args)

        return wrapper

    with pytest.raises(SpecError, match="go above other decorators"):

        class Traced(Agent):
            @traced
            @event
            async def handle(self, message: Order) -> None: ...

    class Fine(Agent):
        @event
        @traced
        async def handle(self, message: Order, ctx: Context) -> None: ...

    assert handler(Fine).suspends


def test_an_override_without_decorator_is_refused() -> None:
    class Parent(Agent):
        @event
        async def handle(self, message: Order) -> None: ...

    with pytest.raises(SpecError, match="decorate it as well"):

        class Child(Parent):
            async def handle(self, message: Order) -> None:  # type: ignore[override]
                ...


def test_two_handlers_of_one_class_without_match_are_refused() -> None:
    with pytest.raises(SpecError, match=r"second: takes Order as 'first' does"):

        class Torn(Agent):
            @event
            async def first(self, message: Order) -> None: ...

            @event
            async def second(self, message: Order) -> None: ...


def test_message_handler_is_an_rpc_if_it_says_what_it_answers() -> None:
    class Both(Agent):
        @message_handler
        async def asked(self, message: Order) -> Receipt:
            return Receipt()

        @message_handler
        async def told(self, message: Receipt) -> None: ...

        @message_handler(match=bool)
        async def picky(self, message: Order) -> Receipt:
            return Receipt()

    assert {name: h.kind for name, h in definition(Both).handlers.items()} == {
        "asked": Kind.RPC,
        "told": Kind.EVENT,
        "picky": Kind.RPC,
    }


class Results(Agent):
    @rpc
    async def handle(self, message: Order) -> Receipt | None: ...

    @rpc
    async def listed(self, message: Receipt) -> list[Receipt]: ...  # type: ignore[empty-body]

    @rpc
    async def counted(self, message: Unrelated) -> int: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("name", "value", "wire"),
    [
        ("handle", Receipt(n=1), ("Receipt", b'{"n":1}')),
        ("handle", None, ("none", b"null")),
        ("handle", LongReceipt(n=1, more="x"), ("LongReceipt", b'{"n":1,"more":"x"}')),
        ("listed", [Receipt(n=1)], ("list[Receipt]", b'[{"n":1}]')),
        ("counted", 3, ("int", b"3")),
    ],
)
def test_a_declared_answer_is_encoded_under_its_own_name(name: str, value: object, wire: tuple[str, bytes]) -> None:
    assert handler(Results, name).encode_result(value) == wire


@pytest.mark.row("RT-62")
@pytest.mark.parametrize(
    ("name", "value"),
    [("handle", Unrelated()), ("handle", {"n": 1}), ("handle", "x"), ("counted", None), ("counted", True)],
)
def test_an_answer_that_was_not_declared_is_a_named_error(name: str, value: object) -> None:
    with pytest.raises(
        HandlerFailed, match=rf"Results\.{name} declares .* and returned {type(value).__name__}"
    ) as raised:
        handler(Results, name).encode_result(value)
    assert raised.value.kind == "WrongResult"


@pytest.mark.row("RT-62")
def test_an_answer_with_a_wrong_field_names_the_field() -> None:
    with pytest.raises(DecodeError, match=r"Receipt\.n"):
        handler(Results).encode_result(Receipt.model_construct(n="x"))  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match=r"list\[Receipt\]\.0"):
        handler(Results, "listed").encode_result([Unrelated()])


async def straight(a: Any) -> int:
    def inner() -> list[int]:
        return [x + 1 for x in a]

    return len(inner())


async def awaits(a: Any) -> None:
    if a:
        await a


async def loops(a: Any) -> None:
    async for _ in a:
        pass


async def enters(a: Any) -> None:
    async with a:
        pass


async def comprehends(a: Any) -> Any:
    return [x async for x in a]


async def nests(a: Any) -> Any:
    async def inner() -> None:
        await a

    return inner


@functools.wraps(straight)
async def wraps(*args: Any) -> Any:
    return 1


@pytest.mark.parametrize(
    ("function", "may_wait"),
    [
        (straight, False),
        (nests, False),
        (awaits, True),
        (loops, True),
        (enters, True),
        (comprehends, True),
        (wraps, True),
        (functools.partial(straight, 1), True),
    ],
)
def test_only_a_coroutine_that_surely_cannot_wait_runs_without_a_task(function: Any, may_wait: bool) -> None:
    assert suspends(function) is may_wait
