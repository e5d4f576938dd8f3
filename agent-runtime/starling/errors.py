"""Every error that Starling raises, sorted by what the caller should do.

MeshError
├── SpecError               a manifest, setting or argument is wrong: report its field, do not retry
├── MessageError            this message cannot be sent or handled as it is: do not retry
│   ├── DecodeError         its bytes or fields do not fit the registered type
│   ├── UnregisteredType    no class is registered under its type name
│   ├── TooLarge            it is over a documented limit
│   ├── BatchRefused        messages of an all-or-nothing batch were refused: each with its reason
│   ├── ObjectLost          the object that holds a large body, reply or cell is missing or damaged
│   │   └── ObjectUnreadable    it is there, but packed in a way that this process cannot read
│   ├── CantHandle          no handler of the agent takes this type
│   └── ReadOnly            a @query changed something, or sent
├── RouteError              nobody is there to take it (also a LookupError)
│   ├── UnknownAgentType    no pool of the mesh runs this agent type
│   └── UnknownPool         the pool is not, or no longer, part of the mesh
├── RetryLater              the world is not ready: try again
│   ├── Unreachable         the message store does not answer: nothing was stored
│   ├── OutcomeUnknown      the store did not say whether it stored: ask before you repeat
│   └── MailboxFull         the target's mailbox is at its limit
├── CallFailed              the call came to an end without a result
│   ├── CallTimeout         no answer by the deadline (also a TimeoutError)
│   ├── CallCycle           the call would wait for one of its own callers
│   ├── CallCancelled       its caller gave up on it
│   ├── NotDeterministic    a repeated turn makes other calls than it made the first time
│   └── HandlerFailed       the callee's handler raised: type name and text of the original
├── OutsideFailed           something outside the mesh failed a handler; `status` is its status code, if it has one
│   ├── NetworkFailed       a service did not answer, or not well
│   ├── ModelFailed         a model call failed
│   ├── MemoryFailed        an agent's memory (a vector store, a knowledge base) failed
│   └── SystemFailed        the machine or its configuration: disk, rights, credentials
├── AgentConstructionError  an agent's factory or `__init__` raised, which is the cause
├── StateUnreadable         an agent's stored state does not load: the agent is parked until somebody repairs it
├── DoNotRetry              raised by a handler: this message goes to the dead letters at once
├── WorkerLost              the process ended during every attempt: the message may be what ends it
└── Fenced                  someone newer owns this shard: stop now, write nothing
    └── JournalLost         the shard's journal is gone or another one: a person is needed
        └── MailboxLost     its mailbox is: looked for again, with a growing pause
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starling.core.error_record import ErrorRecord


class MeshError(Exception):
    """The root: catches everything that Starling itself raises.

    record: what the other side wrote down about an error that came over the wire; None for one of this process.
    """

    record: ErrorRecord | None = None


class SpecError(MeshError):
    """A manifest, setting or argument is wrong.

    field: its path, such as ``spec.agents[0].type``; problem: what is wrong and what would be right.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class MessageError(MeshError):
    """This message cannot be sent or handled as it is; trying again changes nothing."""


class DecodeError(MessageError):
    """Bytes or fields do not fit the registered type."""


class UnregisteredType(MessageError):
    """No message class is registered under this type name."""


class TooLarge(MessageError):
    """The message is over a documented limit; nothing was published."""


class BatchRefused(MessageError):
    """Messages of an all-or-nothing batch could not be stored.

    errors: position in the batch to the reason. stored: how many messages are stored all the same (0: nothing was
    sent); then repeat the batch with its id within the dedupe window: what is stored counts once.
    """

    def __init__(self, errors: Mapping[int, Exception], *, stored: int) -> None:
        first = min(errors)
        kept = f"{stored} others are stored" if stored else "nothing was stored"
        text = f"{len(errors)} messages of the batch were refused, {kept}; message {first}: {errors[first]}"
        super().__init__(text)
        self.errors = dict(errors)
        self.stored = stored


class ObjectLost(MessageError):
    """The object that holds a body, reply or cell over the inline limit is missing, or not what was put."""


class ObjectUnreadable(ObjectLost):
    """The object is there and whole, but packed in a way that this process has no library for. It stays."""


class CantHandle(MessageError):
    """No handler of the agent takes a message of this type."""


class ReadOnly(MessageError):
    """A @query tried to change state or to send; nothing of it happened."""


class RouteError(MeshError, LookupError):
    """Nobody is there to take the message."""


class UnknownAgentType(RouteError):
    """No pool of the mesh runs this agent type."""


class UnknownPool(RouteError):
    """The pool is not, or no longer, part of the mesh."""


class RetryLater(MeshError):
    """The world is not ready; the same request may be made again."""


class Unreachable(RetryLater):
    """The message store does not answer; the request was not carried out."""


class OutcomeUnknown(RetryLater):
    """The store did not say whether it carried the request out."""


class MailboxFull(RetryLater):
    """The target's mailbox is at its limit; nothing was stored."""


class CallFailed(MeshError):
    """A call ended without a result."""


class CallTimeout(CallFailed, TimeoutError):
    """No answer came by the deadline; the callee may have handled the message all the same."""


class CallCycle(CallFailed):
    """The call would have waited for one of its own callers; the text gives the path."""


class CallCancelled(CallFailed):
    """The caller gave up before the answer; what the callee had committed stays."""


class NotDeterministic(CallFailed):
    """A repeated turn makes another call than it made the first time, so that the saved answer is none to it."""


class HandlerFailed(CallFailed):
    """The callee's handler raised.

    kind: class name of the original error, text: its message. The class itself is not imported.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class StateUnreadable(MeshError):
    """An agent's stored state does not load with this code; nothing of it was changed.

    The agent is parked: its messages become dead letters until its state is repaired or the code knows it.
    """


class OutsideFailed(MeshError):
    """Something outside the mesh failed a handler; raise one of its kinds so that severity and counts are right.

    status: the code that the other side answered with, as in HTTP; None when it did not answer.
    """

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class NetworkFailed(OutsideFailed):
    """A service did not answer, or not well."""


class ModelFailed(OutsideFailed):
    """A model call failed."""


class MemoryFailed(OutsideFailed):
    """An agent's memory failed: a vector store, a knowledge base."""


class SystemFailed(OutsideFailed):
    """The machine or its configuration is at fault: disk, rights, credentials."""


class AgentConstructionError(MeshError):
    """An agent's factory or `__init__` raised, which is the cause; the next message tries again."""


class DoNotRetry(MeshError):
    """Raised by a handler: the message becomes a dead letter without a further attempt."""


class WorkerLost(MeshError):
    """The process ended during every attempt at the message, which may be what ends it."""


class Fenced(MeshError):
    """Someone newer owns the shard: stop now, write nothing."""


class JournalLost(Fenced):
    """The shard's journal is gone or is another one than before; a person has to look."""


class MailboxLost(JournalLost):
    """The shard's mailbox is gone or is another one than its journal knows; a person has to look."""
