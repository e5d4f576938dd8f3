"""How often a message is tried: by the subscription's delivery for what came by it, by the rpc for what is called."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
import starling.testing
from pydantic import BaseModel
from starling import Agent, AgentId, Context, Topic, event, rpc
from starling.core.retry import Backoff, RetryPolicy
from starling.errors import DoNotRetry, HandlerFailed, SpecError
from starling_operator.api import AgentPool, AgentSubscription, parse
from starling_operator.wishes import row_of

FIVE = RetryPolicy(attempts=5, backoff=Backoff.FIXED, initial=5.0, jitter=False)
ORDERS, OTHERS = Topic("attempts.orders"), Topic("attempts.others")
LOOKS = 10
KIND = {"apiVersion": "starlingmesh.dev/v1alpha1"}


@dataclass(frozen=True, slots=True)
class TryOrder:
    times: int = 1_000


@dataclass(frozen=True, slots=True)
class TryOnce:
    times: int = 1_000


@dataclass(frozen=True, slots=True)
class TryFinal:
    how: str


class _Strict(BaseModel):
    number: int


@dataclass
class Tries:
    good: list[int] = field(default_factory=list)


class Trier(Agent[Tries], type="trier"):
    """Fails for so many attempts, and notes each of them beside its state, which is rolled back."""

    attempts: list[int] = []  # noqa: RUF012

    @event
    async def heard(self, message: TryOnce, ctx: Context) -> None:
        self._try(message.times, ctx)

    @rpc(attempts=3)
    async def ask(self, message: TryOrder, ctx: Context) -> int:
        return self._try(message.times, ctx)

    @rpc(attempts=3)
    async def final(self, message: TryFinal, ctx: Context) -> int:
        Trier.attempts.append(ctx.attempt)
        if message.how == "invalid":
            _Strict.model_validate({"number": "x"})
        raise {"type": TypeError, "stop": DoNotRetry}[message.how]("no more")

    def _try(self, times: int, ctx: Context) -> int:
        Trier.attempts.append(ctx.attempt)
        self.state.good.append(ctx.attempt)
        if ctx.attempt <= times:
            raise ValueError(f"attempt {ctx.attempt}")
        return ctx.attempt


AGENT = AgentId("trier", "k")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Trier.attempts = []


def subscription(name: str, **own: object) -> AgentSubscription:
    spec = {"poolRef": {"name": "trier"}, "agentType": "trier", **own}
    made = parse({**KIND, "kind": "AgentSubscription", "metadata": {"name": name}, "spec": spec})
    assert isinstance(made, AgentSubscription)
    return made


async def until_attempts(mesh: starling.testing.TestMesh, count: int) -> None:
    for _ in range(LOOKS):
        await mesh.committed()
        if len(Trier.attempts) >= count:
            return
        await mesh.advance(5.0)
    raise TimeoutError(f"attempts: {Trier.attempts}")


@pytest.mark.parametrize(
    ("how", "topic"), [("exact", "attempts.orders"), ("prefix", "attempts.or"), ("pattern", "*.orders")]
)
async def test_a_subscriptions_delivery_says_how_often_its_messages_are_tried(how: str, topic: str) -> None:
    pool = parse(
        {
            **KIND,
            "kind": "AgentPool",
            "metadata": {"name": "trier"},
            "spec": {
                "image": "example.org/trier:1",
                "agents": [{"type": "trier", "entrypoint": "m:Trier"}],
                "delivery": {"attempts": 5, "backoff": "fixed", "initialSeconds": 5, "jitter": False},
            },
        }
    )
    special = subscription("special", topic=topic, match=how, delivery={"attempts": 2})
    plain = subscription("plain", topic="attempts.others")
    assert isinstance(pool, AgentPool)
    rows = [row_of(special, pool), row_of(plain, pool)]
    async with starling.testing.mesh(Trier, subscriptions=rows, retry=FIVE) as mesh:
        await mesh.publish(ORDERS("k"), TryOnce())
        await until_attempts(mesh, 2)
        await mesh.idle()
        (letter,) = await mesh.dead_letters()
        assert (letter.attempts, Trier.attempts) == (2, [1, 2])
        await mesh.publish(OTHERS("k"), TryOnce())
        await until_attempts(mesh, 7)
        await mesh.idle()
    assert Trier.attempts == [1, 2, 1, 2, 3, 4, 5]


@pytest.mark.row("RT-29", part="a call makes as many attempts as the rpc asks for")
async def test_a_call_is_tried_as_often_as_the_rpc_asks_for_and_leaves_one_effect() -> None:
    async with starling.testing.mesh(Trier, retry=FIVE) as mesh:
        asked = asyncio.ensure_future(mesh.call(AGENT, TryOrder(2), timeout=60))
        await until_attempts(mesh, 3)
        assert await asked == 3
        assert (Trier.attempts, (await mesh.state(Trier, "k")).good) == ([1, 2, 3], [3])


@pytest.mark.row("RT-29", part="a call makes as many attempts as the rpc asks for")
async def test_after_its_last_attempt_the_caller_gets_the_error_and_no_dead_letter_is_left() -> None:
    async with starling.testing.mesh(Trier, retry=FIVE) as mesh:
        asked = asyncio.ensure_future(mesh.call(AGENT, TryOrder(), timeout=60))
        await until_attempts(mesh, 3)
        with pytest.raises(HandlerFailed, match="attempt 3"):
            await asked
        assert (Trier.attempts, await mesh.dead_letters()) == ([1, 2, 3], [])


@pytest.mark.row("RT-29", part="calls make one attempt unless asked")
async def test_a_call_of_what_asks_for_nothing_makes_one_attempt() -> None:
    async with starling.testing.mesh(Trier, retry=FIVE) as mesh:
        with pytest.raises(HandlerFailed, match="attempt 1"):
            await mesh.call(AGENT, TryOnce(), timeout=60)
    assert Trier.attempts == [1]


@pytest.mark.row(
    "RT-29", part="a validation error, a type error, a stop and a deadline end a call at once", completes=True
)
@pytest.mark.parametrize(
    ("how", "kind"), [("invalid", "ValidationError"), ("type", "TypeError"), ("stop", "DoNotRetry")]
)
async def test_what_no_attempt_mends_is_answered_after_one(how: str, kind: str) -> None:
    async with starling.testing.mesh(Trier, retry=FIVE) as mesh:
        with pytest.raises(HandlerFailed) as raised:
            await mesh.call(AGENT, TryFinal(how), timeout=60)
    assert (raised.value.kind, Trier.attempts) == (kind, [1])


async def test_no_attempt_is_promised_that_would_come_after_the_callers_deadline() -> None:
    async with starling.testing.mesh(Trier, retry=FIVE) as mesh:
        with pytest.raises(HandlerFailed, match="attempt 1"):
            await mesh.call(AGENT, TryOrder(), timeout=4.0)
        await mesh.idle()
    assert Trier.attempts == [1]


async def test_the_attempts_of_a_call_are_counted_over_a_crash() -> None:
    async with starling.testing.mesh(Trier, retry=FIVE) as mesh:
        asked = asyncio.ensure_future(mesh.call(AGENT, TryOrder(2), timeout=60))
        await until_attempts(mesh, 1)
        await mesh.committed()
        await mesh.crash()
        await until_attempts(mesh, 3)
        assert await asked == 3
    assert Trier.attempts == [1, 2, 3]


@pytest.mark.parametrize("attempts", [0, -1, True, 1.5])
def test_a_number_of_attempts_that_is_none_is_named(attempts: int) -> None:
    with pytest.raises(SpecError, match=r"attempts: is .*; give a whole number from 1 on"):

        @rpc(attempts=attempts)
        async def ask(self: object, message: TryOrder) -> int:
            return 1
