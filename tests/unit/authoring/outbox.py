"""A turn that only keeps what was said in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starling.core.ids import AgentId, TopicId

NOW = 1_700_000_000.0


class Outbox:
    """Keeps what a turn says, in order; every call gets the same answer."""

    def __init__(self, answer: tuple[str, bytes] = ("Answer", b'{"text":"42"}')) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.answer = answer

    def send(
        self, target: AgentId, type_name: str, body: bytes, headers: Mapping[str, str], priority: int, not_before: int
    ) -> str:
        how = {"priority": priority, "not_before": not_before} if priority != 1 or not_before else {}
        self.said.append(("send", target, type_name, body, dict(headers), *how.values()))
        return f"id-{len(self.said)}"

    def publish(
        self, topic: TopicId, type_name: str, body: bytes, headers: Mapping[str, str], priority: int, not_before: int
    ) -> None:
        how = {"priority": priority, "not_before": not_before} if priority != 1 or not_before else {}
        self.said.append(("publish", topic, type_name, body, dict(headers), *how.values()))

    def cancel(self, target: AgentId, message_id: str) -> None:
        self.said.append(("cancel", target, message_id))

    def set_timer(self, name: str, type_name: str, body: bytes, at: float, every: float, cron: str) -> None:
        self.said.append(("set timer", name, type_name, body, at, every, cron))

    def cancel_timer(self, name: str) -> None:
        self.said.append(("cancel timer", name))

    def destroy(self) -> None:
        self.said.append(("destroy",))

    async def step(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.said.append(("step", name))
        return function(*args, **kwargs)

    async def call(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]:
        self.said.append(("call", target, type_name, body, dict(headers), timeout))
        return self.answer

    async def query(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]:
        self.said.append(("query", target, type_name, body, dict(headers), timeout))
        return self.answer

    def wall(self) -> float:
        return NOW
