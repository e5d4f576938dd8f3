"""Agents that run everywhere: in memory, on NATS in one process, under `starling dev`, on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

from starling import Agent, AgentId, Context, Topic, event, message, query, rpc

LOGIN = Topic("user.login")
LOGOUT = Topic("user.logout")
FAILED = Topic("user.login.failed")


@dataclass
class PaidIn:
    amount: int


@dataclass
class Transfer:
    """Asks an account to pay another one."""

    to: str
    amount: int


@dataclass
class AskBalance:
    pass


@dataclass
class LookAtBalance:
    pass


@dataclass
class Overdraw:
    """Changes the state, and then fails with this text."""

    text: str


@message
@dataclass
class NobodyTakes:
    pass


@dataclass
class AccountBalance:
    amount: int = 0
    turns: int = 0


class RunsAccount(Agent[AccountBalance], type="account"):
    @event
    async def paid_in(self, message: PaidIn) -> None:
        self.state.amount += message.amount
        self.state.turns += 1

    @rpc
    async def transfer(self, message: Transfer, ctx: Context) -> AccountBalance:
        self.state.amount -= message.amount
        ctx.send(AgentId("account", message.to), PaidIn(message.amount))
        other: AccountBalance = await ctx.call(AgentId("account", message.to), AskBalance())
        ctx.publish(LOGOUT(self.id.key), Happened(f"had {other.amount}"))
        return self.state

    @rpc
    async def overdraw(self, message: Overdraw) -> AccountBalance:
        self.state.amount = -1
        raise ValueError(message.text)

    @rpc
    async def balance(self, message: AskBalance) -> AccountBalance:
        return self.state

    @query
    async def look(self, message: LookAtBalance) -> AccountBalance:
        return self.state


@dataclass
class Happened:
    mark: str


@dataclass
class AskHeard:
    pass


@dataclass
class HeardSoFar:
    """Topic type and mark of each message, in order."""

    all: list[tuple[str, str]] = field(default_factory=list)


class Greeter(Agent[HeardSoFar]):
    """Hears logins, which two subscriptions bring."""

    @event
    async def happened(self, message: Happened, ctx: Context) -> None:
        assert ctx.topic is not None
        self.state.all.append((ctx.topic.type, message.mark))

    @rpc
    async def heard(self, message: AskHeard) -> HeardSoFar:
        return self.state


class Audit(Greeter):
    """Hears all of one user."""


class Desk(Greeter):
    """One agent hears all of all users."""


class Alarm(Greeter):
    """Hears failures of one user."""
