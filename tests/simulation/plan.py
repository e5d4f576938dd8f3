"""What the agents of one seed do: a forest of messages, drawn before the run, so that its outcome is known.

To add a kind of work: a field of `Action`, a line in `KINDS` that sets it, and what `agents.py` does with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from starling.core.ids import AgentId, TopicId
from starling.core.subscriptions import SubscriptionRoute

from .large import BODY, Padding

TYPES = ("one", "two")
KEYS = ("a", "b", "c", "d")
WAITING = frozenset({"two"})
"""Agent types whose turns may wait."""
TOPIC = "news"
ATTEMPTS = 4
NEVER = 99
MORTAL = "m"
"""Key of agents that destroy themselves now and then."""
WITNESS = AgentId("one", "w")
"""Hears of every turn of a mortal agent, whose own state forgets; it never ends itself."""
TAKEN_BACK, NEVER_SET = "taken back", "never set"
"""How a message is cancelled by the turn that sends it: a delayed one, perhaps too late; a timer, for sure."""


@dataclass(slots=True)
class Action:
    """What the turn of one message does. key: tag and agent.

    fails: attempts that raise before one succeeds, `NEVER`: all; pause: seconds that it waits first; once: it has a
    step of its own, whose result is saved; steps: further messages, in order; times: how often it happens (a recurring
    timer, which its last turn takes back); cancels: tag of the timer that it takes back; destroys: its agent ends.
    cancelled: tag of the action that takes it back, or `TAKEN_BACK` or `NEVER_SET`.
    """

    tag: str
    agent: AgentId
    sender: str
    is_call: bool = False
    once: bool = False
    fails: int = 0
    pause: float = 0.0
    times: int = 1
    cancels: str = ""
    cancelled: str = ""
    destroys: bool = False
    steps: list[Step] = field(default_factory=list)

    @property
    def is_poison(self) -> bool:
        return self.fails >= ATTEMPTS

    @property
    def calls(self) -> bool:
        return any(step.kind == "call" for step in self.steps)


@dataclass(frozen=True, slots=True)
class Step:
    """One message that a turn sends. kind: send, publish, call, timer or witness; to: an agent, or publish's topic.

    urgent: in the lane of high priorities; delay: seconds until it is handed over; every: seconds between two times of
    a recurring timer; taken_back: the turn that sends it takes it back at once.
    """

    kind: str
    tag: str
    to: AgentId | TopicId
    urgent: bool = False
    delay: float = 0.0
    every: float = 0.0
    taken_back: bool = False


@dataclass(frozen=True, slots=True)
class Root:
    """One message from outside. at: seconds; user_id: given by the user; again: it is sent a second time;
    waits: for room in a full mailbox, instead of being refused."""

    client: int
    at: float
    step: Step
    user_id: bool
    again: bool
    waits: bool


class Plan:
    """All actions by tag and agent, and the roots in the order of their clients."""

    def __init__(
        self,
        chance: random.Random,
        *,
        clients: int,
        roots: int,
        most: int,
        seconds: float,
        padding: Padding | None = None,
        far: float = 0.0,
    ) -> None:
        """padding: what makes values large, None: all are small. far: seconds of the longest delay; 0: of none."""
        self._chance = chance
        self._most = most
        self._padding = padding
        self._far = far
        self._small: set[str] = set()
        self._keys = KEYS[: chance.choice((1, 2, len(KEYS)))]
        if chance.random() < 0.4:
            self._keys = (*self._keys, MORTAL)
        self.actions: dict[tuple[str, AgentId], Action] = {}
        self.roots: list[Root] = []
        for number in range(roots):
            client = chance.randrange(clients)
            kind = chance.choice(("send", "send", "send", "publish", "call"))
            step = self._step(kind, f"r{number}", f"client-{client}", depth=0, waits_for=())
            if step is not None:
                user_id = kind != "call" and chance.random() < 0.5
                again = user_id and chance.random() < 0.5
                self.roots.append(Root(client, chance.random() * seconds, step, user_id, again, chance.random() < 0.3))
        self.roots.sort(key=lambda root: root.at)

    def of(self, tag: str, agent: AgentId) -> Action:
        return self.actions[tag, agent]

    def targets(self, step: Step) -> list[AgentId]:
        """The agents that a step's message goes to."""
        return self.hearers(step.to) if isinstance(step.to, TopicId) else [step.to]

    @property
    def subscriptions(self) -> tuple[SubscriptionRoute, ...]:
        """Who hears the topic. With large values one agent hears all of it: two of a pool share a body."""
        rows = [SubscriptionRoute(TOPIC, kind) for kind in TYPES]
        if self._padding is not None:
            rows.append(SubscriptionRoute(TOPIC, TYPES[0], key=KEYS[0]))
        return tuple(rows)

    def hearers(self, topic: TopicId) -> list[AgentId]:
        """The agents that hear a topic, in the order of the route table."""
        rows = ((row.agent_type, topic.source if row.key is None else row.key) for row in self.subscriptions)
        return list(dict.fromkeys(AgentId(kind, key) for kind, key in rows))

    def pad(self, tag: str, what: str) -> str:
        """What makes the body, the answer or the state of a tag large; mostly nothing."""
        if self._padding is None or (what == BODY and tag in self._small):
            return ""
        return self._padding.of(tag, what)

    def _step(self, kind: str, tag: str, sender: str, *, depth: int, waits_for: tuple[AgentId, ...]) -> Step | None:
        chance = self._chance
        to: AgentId | TopicId = AgentId(chance.choice(TYPES), chance.choice(self._keys))
        if kind == "publish":
            to = TopicId(TOPIC, chance.choice(self._keys))
        elif kind == "timer":
            to = AgentId.parse(sender)
        if kind == "call" and to in waits_for:
            return None  # a call cycle is refused: not part of this workload
        urgent = kind in ("send", "publish") and depth > 0 and chance.random() < 0.2
        delayed = kind in ("send", "timer") and depth > 0 and chance.random() < 0.3
        delay = chance.choice((0.05, 1.0, 4.0)) if delayed else 0.0
        if kind == "timer":
            self._small.add(tag)  # a timer's message has to be
        elif delay >= 1.0 and depth == 1 and self._far:
            delay = self._far
        recurs = kind == "timer" and not _is_mortal(to) and chance.random() < 0.3
        taken_back = kind in ("send", "timer") and (delayed or kind == "timer") and chance.random() < 0.15
        step = Step(kind, tag, to, urgent, delay, 1.0 if recurs else 0.0, taken_back)
        for agent in self.targets(step):
            if kind == "publish" and str(agent) == sender:
                continue  # a publish does not come back to its own agent
            waiting = (*waits_for, agent) if kind == "call" else ()
            action = Action(tag, agent, sender, is_call=kind == "call")
            self.actions[tag, agent] = action
            if taken_back:
                action.cancelled = NEVER_SET if kind == "timer" else TAKEN_BACK
            if recurs:
                action.times = chance.choice((2, 3))
            else:
                self._draw(action, depth=depth, waits_for=waiting)
            if _is_mortal(agent):
                self._make_mortal(action)
        return step

    def _make_mortal(self, action: Action) -> None:
        """Its turn may be its agent's last; the witness hears of it."""
        tag = f"{action.tag}!{action.agent.type[0]}"
        action.destroys = self._chance.random() < 0.3
        action.steps.append(Step("witness", tag, WITNESS))
        self.actions[tag, WITNESS] = Action(tag, WITNESS, str(action.agent))

    def _draw(self, action: Action, *, depth: int, waits_for: tuple[AgentId, ...]) -> None:
        for probability, apply in KINDS:
            if self._chance.random() < probability:
                apply(self, action, depth, waits_for)

    def add_steps(self, action: Action, kind: str, depth: int, waits_for: tuple[AgentId, ...]) -> None:
        """Give an action one to three further messages."""
        if depth >= 3 or (kind == "call" and action.agent.type not in WAITING):
            return
        for _ in range(self._chance.randint(1, 3)):
            if len(self.actions) >= self._most:
                return
            tag = f"{action.tag}.{len(action.steps)}{action.agent.type[0] if kind == 'publish' else ''}"
            tag = f"{tag}-{action.agent.type[0]}{action.agent.key}"
            chain = (*waits_for, action.agent) if kind == "call" else ()
            step = self._step(kind, tag, str(action.agent), depth=depth + 1, waits_for=chain)
            if step is not None:
                action.steps.append(step)
                if kind == "timer" and not step.taken_back and not step.every and self._chance.random() < 0.4:
                    self._add_cancel(action, step)

    def _add_cancel(self, action: Action, timer: Step) -> None:
        """A later message to the same agent takes the timer back, if it has not run."""
        tag = f"{timer.tag}~"
        cancel = Step("send", tag, action.agent, delay=self._chance.choice((0.0, 0.0, 0.05, 1.0)))
        action.steps.append(cancel)
        self.actions[tag, action.agent] = made = Action(tag, action.agent, str(action.agent), cancels=timer.tag)
        self.actions[timer.tag, action.agent].cancelled = tag
        if _is_mortal(action.agent):
            self._make_mortal(made)

    def set_pause(self, action: Action) -> None:
        if action.agent.type in WAITING:
            action.pause = self._chance.choice((0.01, 0.3, 2.0))

    def set_failing(self, action: Action) -> None:
        """A call is tried once, so it fails for good or not at all."""
        action.fails = NEVER if action.is_call else self._chance.choice((1, 1, 2, NEVER))

    def set_once(self, action: Action) -> None:
        action.once = action.agent.type in WAITING


Kind = Callable[[Plan, Action, int, tuple[AgentId, ...]], None]

KINDS: tuple[tuple[float, Kind], ...] = (
    (0.35, lambda plan, action, depth, waits: plan.add_steps(action, "send", depth, waits)),
    (0.15, lambda plan, action, depth, waits: plan.add_steps(action, "publish", depth, waits)),
    (0.08, lambda plan, action, depth, waits: plan.add_steps(action, "call", depth, waits)),
    (0.06, lambda plan, action, depth, waits: plan.add_steps(action, "timer", depth, waits)),
    (0.12, lambda plan, action, depth, waits: plan.set_failing(action)),
    (0.15, lambda plan, action, depth, waits: plan.set_once(action)),
    (0.15, lambda plan, action, depth, waits: plan.set_pause(action)),
)
"""What a turn may do beside noting its message: how likely, and how it is drawn."""


def _is_mortal(to: AgentId | TopicId) -> bool:
    return isinstance(to, AgentId) and to.key == MORTAL


def is_sure(step: Step, child: Action) -> bool:
    """Whether a message that was sent must have its effect: nobody takes it back, and no end of its agent ends it."""
    return not child.cancelled and not (_is_mortal(child.agent) and (step.delay or step.kind == "timer"))


def children(plan: Plan, action: Action) -> Iterator[tuple[Step, Action]]:
    """The messages of an action's turn, each with what it does at its agent."""
    for step in action.steps:
        for agent in plan.targets(step):
            child = plan.actions.get((step.tag, agent))
            if child is not None:
                yield step, child


def roots_of(plan: Plan) -> Mapping[str, list[Root]]:
    """Roots by the name of their client."""
    found: dict[str, list[Root]] = {}
    for root in plan.roots:
        found.setdefault(f"client-{root.client}", []).append(root)
    return found
