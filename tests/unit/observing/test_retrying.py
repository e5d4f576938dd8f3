"""Outside calls tried again within one attempt."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import starling.testing
from starling import Agent, Context, rpc
from starling.core.ids import AgentId
from starling.core.routes import Routes
from starling.errors import CantHandle, DoNotRetry, MailboxFull, ModelFailed, NetworkFailed, SpecError, UnknownAgentType
from starling.retrying import Retrying, is_passing


class Service:
    """Fails with the given errors, one a call, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def ask(self, text: str) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return text.upper()

    def ask_plainly(self, text: str) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return f"{text} in {threading.current_thread() is not threading.main_thread()}"


async def test_a_call_that_fails_twice_succeeds_at_the_third_try() -> None:
    service = Service(ConnectionError("reset"), TimeoutError("slow"))
    assert await Retrying(2, first=0).call(service.ask, "hello") == "HELLO"
    assert service.calls == 3


@pytest.mark.row("RT-67", part="0 retries raises the first error")
async def test_without_retries_the_first_error_is_raised() -> None:
    service = Service(ConnectionError("first"), ConnectionError("second"))
    with pytest.raises(ConnectionError, match="first"):
        await Retrying(0).call(service.ask, "hello")
    assert service.calls == 1


@pytest.mark.row("RT-67", part="final failure raises the last error with the number of attempts")
async def test_the_last_error_is_raised_and_knows_how_often_it_was_tried() -> None:
    service = Service(ConnectionError("first"), ConnectionError("second"), NetworkFailed("third"))
    with pytest.raises(NetworkFailed, match="third") as raised:
        await Retrying(2, first=0).call(service.ask, "hello")
    assert raised.value.attempts == 3  # type: ignore[attr-defined]
    assert raised.value.__notes__ == ["tried 3 times"]


@pytest.mark.row("RT-67", part="no agent is not retried")
async def test_an_agent_that_does_not_exist_is_not_asked_again() -> None:
    calls = 0

    async def route() -> None:
        nonlocal calls
        calls += 1
        Routes().target(AgentId("ghost", "1"))

    with pytest.raises(LookupError, match="ghost"):
        await Retrying(5, first=0).call(route)
    assert calls == 1


@pytest.mark.row("RT-67", part="other turns run during the wait")
async def test_a_plain_function_and_the_pauses_leave_the_loop_free() -> None:
    started, release = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        assert release.wait(10)
        return "done"

    call = asyncio.create_task(Retrying().call(slow))
    while not started.is_set():
        await asyncio.sleep(0)
    release.set()  # the loop gets here although the function still blocks
    assert await call == "done"

    service = Service(ConnectionError("reset"))
    waiting = asyncio.create_task(Retrying(1, first=3600, cap=3600).call(service.ask, "hello"))
    while not service.calls:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert service.calls == 1


async def test_a_plain_function_runs_in_a_thread() -> None:
    assert await Retrying(1, first=0).call(Service(TimeoutError()).ask_plainly, "ran") == "ran in True"


async def test_no_try_starts_after_the_timeout() -> None:
    service = Service(*[ConnectionError("reset")] * 50)
    with pytest.raises(ConnectionError):
        await Retrying(50, first=0.02, cap=0.02, timeout=0.05).call(service.ask, "hello")
    assert 1 <= service.calls < 50


async def test_a_decorated_function_is_tried_again() -> None:
    service = Service(ModelFailed("busy", status=429))

    @Retrying(1, first=0)
    async def ask(text: str) -> str:
        """Ask the service."""
        return await service.ask(text)

    assert await ask("hello") == "HELLO"
    assert ask.__doc__ == "Ask the service."


def test_only_async_functions_are_decorated() -> None:
    with pytest.raises(SpecError, match=r"retrying\.call"):
        Retrying()(time.sleep)  # type: ignore[arg-type]


async def test_own_rules_say_what_passes() -> None:
    service = Service(KeyError("not yet"))
    assert await Retrying(1, first=0, when=lambda error: isinstance(error, KeyError)).call(service.ask, "x") == "X"


@pytest.mark.parametrize(
    "error",
    [TimeoutError(), ConnectionResetError(), MailboxFull("full"), NetworkFailed("down"), ModelFailed("x", status=503)],
)
def test_what_passes_is_tried_again(error: Exception) -> None:
    assert is_passing(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bug"),
        KeyError("bug"),
        FileNotFoundError("config"),
        DoNotRetry("enough"),
        CantHandle("no handler"),
        SpecError("a", "b"),
        ModelFailed("wrong request", status=400),
        ModelFailed("who are you", status=401),
    ],
)
def test_what_does_not_pass_is_not(error: Exception) -> None:
    assert not is_passing(error)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"retries": -1}, "retries"),
        ({"retries": 101}, "retries"),
        ({"first": -1}, "first"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_wrong_settings_name_the_field(wrong: dict[str, int], field: str) -> None:
    with pytest.raises(SpecError, match=field):
        Retrying(**wrong)  # type: ignore[arg-type]


class Fetcher(Agent, type="retrying_fetcher"):
    """Calls a service that is down at first."""

    @rpc
    async def fetch(self, message: str) -> str:
        return await Retrying(3, first=0.01).call(service.ask_plainly, message)

    @rpc
    async def chat(self, message: int) -> int:
        return message

    @rpc
    async def ghost(self, message: bool, ctx: Context) -> str:
        async def ask() -> str:
            attempts.append(ctx.attempt)
            answer: str = await ctx.call(AgentId("ghost", "1"), "hello")
            return answer

        return await Retrying(3, first=0).call(ask)


service = Service()
attempts: list[int] = []


@pytest.mark.row("RT-67")
async def test_outside_calls_are_tried_again_within_one_attempt_of_a_turn() -> None:
    service.errors = [ConnectionError("down"), TimeoutError("slow"), ConnectionError("down")]
    service.calls = 0
    async with starling.testing.mesh(Fetcher, shards=1) as mesh:
        fetching = asyncio.create_task(mesh.agent(Fetcher, "a").fetch("page", timeout=30.0))
        while not service.calls:
            assert await mesh.agent(Fetcher, "b").chat(7, timeout=30.0) == 7
        assert await fetching == "page in True"
        with pytest.raises(UnknownAgentType, match="ghost"):
            await mesh.agent(Fetcher, "a").ghost(True, timeout=30.0)
    assert service.calls == 4
    assert attempts == [1]
