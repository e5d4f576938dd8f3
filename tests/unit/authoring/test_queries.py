"""Declaring and finding read-only handlers."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from starling import Agent, Context, event, query, rpc
from starling.agent import definition
from starling.errors import CantHandle, HandlerFailed, SpecError
from starling.handlers import Kind


class AskTill(BaseModel):
    what: str = ""


class Total(BaseModel):
    cents: int = 0


class Note(BaseModel):
    pass


class Till(Agent[Total]):
    @query
    async def total(self, message: AskTill) -> Total:
        return self.state

    @query(match=lambda ask: ask.what == "text")
    async def in_words(self, message: AskTill, ctx: Context) -> str:
        return f"{self.state.cents} cents of {ctx.id.key}"

    @rpc
    async def count(self, message: AskTill) -> Total:
        return self.state

    @event
    async def noted(self, message: Note) -> None: ...


@pytest.mark.parametrize(("body", "name"), [(b"{}", "total"), (b'{"what": "text"}', "in_words")])
def test_a_query_is_found_among_queries_only_with_match_first(body: bytes, name: str) -> None:
    handler, message = definition(Till).find_query("AskTill", body)
    assert (handler.name.rpartition(".")[2], handler.kind) == (name, Kind.QUERY)
    assert message == AskTill.model_validate_json(body)


@pytest.mark.parametrize("is_call", [True, False])
def test_what_comes_through_the_log_never_reaches_a_query(is_call: bool) -> None:
    handler, _ = definition(Till).find("AskTill", b"{}", is_call)
    assert handler.name == "Till.count"


def test_asking_in_the_wrong_way_says_which_is_the_right_one() -> None:
    class Silent(Agent):
        @query
        async def peek(self, message: AskTill) -> None: ...

    with pytest.raises(CantHandle, match=r"Note as a query; Till\.noted is an @event"):
        definition(Till).find_query("Note", b"{}")
    for is_call in (True, False):
        with pytest.raises(CantHandle, match=r"through the log; .*Silent\.peek is a @query"):
            definition(Silent).find("AskTill", b"{}", is_call)


def test_a_query_says_what_it_answers_and_answers_that() -> None:
    with pytest.raises(SpecError, match=r"Mute\.peek: a @query needs a return annotation"):

        class Mute(Agent):
            @query
            async def peek(self, message: AskTill):  # type: ignore[no-untyped-def]
                ...

    handler = definition(Till).handlers["total"]
    assert handler.encode_result(Total(cents=3)) == ("Total", b'{"cents":3}')
    with pytest.raises(HandlerFailed, match="declares Total and returned Note"):
        handler.encode_result(Note())


def test_a_blocking_query_is_refused() -> None:
    with pytest.raises(SpecError, match=r"async def.*@query"):

        @query  # type: ignore[arg-type]
        def peek(self: Agent, message: AskTill) -> Total: ...  # type: ignore[empty-body]
