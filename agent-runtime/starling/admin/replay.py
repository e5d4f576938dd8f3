"""A dead letter put back at its target, once.

The message is stored in its mailbox first, the letter removed after. Between the two stands a note in the
dead-letter stream, so that whoever finds both knows what may have happened: within the mailbox's dedupe window a
repeat counts once by its message id; after it nobody can say, and a person decides.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import replace
from typing import Final, NamedTuple

from starling.admin.letters import DeadLetters, Letter, note_time
from starling.core import limits
from starling.core.envelope import Envelope, frame_body
from starling.core.names import MESSAGE_ID, VERSION, Inlet, MeshNames, Origin
from starling.core.priority import lane_of
from starling.core.routes import Routes, Target
from starling.errors import MailboxFull, OutcomeUnknown, SpecError, TooLarge, UnknownPool, Unreachable
from starling.ports.store import Answer, Expect, Refused, Store, Stored

_MARGIN: Final = 5.0
_FULL: Final = 0.999
_TRIES: Final = 8
_PATIENCE: Final = 15.0
_PAUSE: Final = 0.2


class _Started(NamedTuple):
    """since: when the letter was first put back, by the server's clock; age: seconds that have passed since."""

    since: float
    age: float


class Replayer:
    """Puts letters of one pool back. routes: where the messages go now; their agents may have moved to another pool."""

    def __init__(self, store: Store, mesh: str, letters: DeadLetters, routes: Routes) -> None:
        self._store = store
        self._names = MeshNames(mesh)
        self._letters = letters
        self._pool_names = self._names.pool(letters.pool)
        self._routes = routes

    async def replay(self, letter: Letter, *, again: bool = False) -> int:
        """Store the letter's messages in their mailboxes, remove the letter, and return how many messages it held.

        again: also when an earlier try was cut off so long ago that nobody can say whether it stored them.
        Raises SpecError for a letter that holds nothing readable, UnknownAgentType, MailboxFull (nothing was
        stored), OutcomeUnknown (see the text: the letter stays), Unreachable.
        """
        envelopes = letter.envelopes
        if not envelopes:
            raise SpecError("letter", f"letter {letter.number} holds no readable message; show it, then drop it")
        targets = [self._routes.target(envelope.target) for envelope in envelopes]
        started = await self._note(letter, again=again)
        for index, (envelope, target) in enumerate(zip(envelopes, targets, strict=True)):
            await self._put_back(letter, envelope, target, started, index)
        await self._letters.drop(letter.number)
        return len(envelopes)

    async def _note(self, letter: Letter, *, again: bool) -> _Started:
        """Note that the letter is being put back, or find the note of a try that was cut off."""
        await self._check_room()
        stream, subject = self._pool_names.dead_letters, self._pool_names.replay_subject(letter.number)
        for _ in range(_TRIES):
            found = await self._store.last(stream, subject)
            began = b"" if found is None or again else repr(note_time(found)).encode()
            answer = await (await self._store.publish(subject, began, expect=Expect(found.sequence if found else 0)))
            if isinstance(answer, Stored):
                written = await self._store.last(stream, subject)
                if written is not None and written.sequence == answer.sequence:
                    await self._store.purge(stream, subject, written.sequence)
                    return _Started(note_time(written), written.time - note_time(written))
            await asyncio.sleep(_PAUSE)
        raise Unreachable(f"letter {letter.number}: the note that it is being put back could not be written")

    async def _check_room(self) -> None:
        fill = await self._letters.fill()
        if fill.ratio >= _FULL:
            raise SpecError(
                "dead letters",
                f"pool {self._letters.pool} keeps {fill.letters} of at most {fill.max_letters} letters "
                f"({fill.ratio:.1%} full): one more note would push the oldest out; drop some first",
            )

    async def _put_back(
        self, letter: Letter, envelope: Envelope, target: Target, started: _Started, index: int
    ) -> None:
        names = self._names.pool(target.pool.pool)
        subject = names.inlet_subject(target.shard, Inlet(Origin.OUTSIDE, lane_of(envelope.priority)))
        window = await self._window(names.mailbox(target.shard))
        if started.age > window - _MARGIN:
            raise OutcomeUnknown(
                f"letter {letter.number} was being put back {started.age:.0f} s ago already and may have been handled "
                "since; look at its agent, then replay it with --again or drop it"
            )
        fresh = replace(envelope, attempt=0, not_before=0, deadline=0, reply="")
        headers = {MESSAGE_ID: self._message_id(letter, started, index), VERSION: str(limits.WIRE_VERSION)}
        body = frame_body([fresh.pack()])
        loop = asyncio.get_running_loop()
        until = loop.time() + min(_PATIENCE, window - _MARGIN - started.age)
        maybe = False
        while True:
            answer = await self._publish(subject, body, headers)
            if isinstance(answer, Stored):
                return
            if isinstance(answer, Refused):
                if not maybe and index == 0 and started.age == 0.0:
                    await self._letters.forget_replay(letter.number)
                raise _refusal(letter, subject, answer)
            maybe = maybe or answer is not None
            if loop.time() > until:
                break
            await asyncio.sleep(_PAUSE)
        if maybe:
            raise OutcomeUnknown(f"letter {letter.number}: nobody can say whether {subject} stored it; replay it again")
        raise Unreachable(f"letter {letter.number} was not put back: NATS does not answer")

    async def _window(self, mailbox: str) -> float:
        """Seconds in which the mailbox counts a repeated message id once."""
        info = await self._store.stream_info(mailbox)
        if info is None:
            raise UnknownPool(f"there is no mailbox {mailbox}; is the pool applied?")
        return info.duplicate_window

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str]) -> Answer | None:
        """None: certainly not sent."""
        try:
            return await (await self._store.publish(subject, body, headers))
        except Unreachable:
            return None

    def _message_id(self, letter: Letter, started: _Started, index: int) -> str:
        """The same for every repeat of one replay: of this letter of this stream, begun at this time."""
        text = (
            f"replay {self._pool_names.dead_letters} {letter.number} {letter.letter.time!r} {started.since!r} {index}"
        )
        return base64.b32encode(hashlib.sha256(text.encode()).digest())[:26].decode().lower()


def _refusal(letter: Letter, subject: str, answer: Refused) -> Exception:
    if answer.why == "full":
        return MailboxFull(f"letter {letter.number} stays: mailbox {subject} is full ({answer.text})")
    if answer.why == "no-stream":
        return UnknownPool(f"letter {letter.number} stays: no mailbox takes {subject}; is the pool applied?")
    return TooLarge(f"letter {letter.number} stays: {subject}: {answer.text}")
