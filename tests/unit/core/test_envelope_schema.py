"""The published schema of the envelope says what the code reads and writes, no more and no less."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import pytest
import starling.testing
from hypothesis import given
from starling import Agent, AgentId, Context, Priority, Topic, event, rpc
from starling.core.envelope import Envelope, open_frame
from starling.core.ids import PoolName, ShardId, TopicId
from starling.core.names import MeshNames
from starling.core.reference import Reference
from starling.errors import DecodeError

from tests.unit.core.test_envelope import ENVELOPES

SCHEMA: Mapping[str, Any] = json.loads(
    (Path(__file__).parents[3] / "docs" / "protocol" / "envelope.schema.json").read_text()
)
TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
"""Of JSON to what msgpack gives; bytes are strings with contentEncoding."""
CHECKED = {
    *("$defs", "$id", "$ref", "$schema", "description", "title", "type", "contentEncoding", "pattern", "minLength"),
    *("maxLength", "minimum", "maximum", "required", "properties", "additionalProperties", "items", "prefixItems"),
    *("minItems", "maxItems"),
}
FULL = Envelope(
    id="m1",
    type="Ask",
    body=b"",
    target=AgentId("desk", "k"),
    content_type="application/x",
    sender=AgentId("clerk", "k"),
    topic=TopicId("asked", "s"),
    reply="st.dev.r.c.1",
    trace="00-1-2-01",
    created=1,
    priority=3,
    not_before=2,
    deadline=3,
    headers={"who": "me"},
    attempt=1,
    chain=("a/k",),
    repeatable=True,
    large=Reference(PoolName("p"), "o", 300_000, b"d" * 32),
)


def wrongs(schema: Mapping[str, Any], value: Any, where: str = "") -> list[str]:
    """Return what a value has against a schema; the part of JSON Schema that ours needs, and nothing else."""
    assert set(schema) <= CHECKED, set(schema) - CHECKED
    if "$ref" in schema:
        return wrongs(SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, where)
    wanted: Any = bytes if "contentEncoding" in schema else TYPES[schema["type"]]
    if type(value) is not wanted:
        return [f"{where}: {type(value).__name__} is no {wanted.__name__}"]
    found = []
    if "pattern" in schema and not re.fullmatch(schema["pattern"].removeprefix("^").removesuffix("$"), value):
        found.append(f"{where}: {value!r} does not match")
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{where}: {value} is out of range")
    if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        found.append(f"{where}: {len(value)} characters")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return [*found, f"{where}: {len(value)} items"]
        parts = schema.get("prefixItems") or [schema["items"]] * len(value)
        for number, (part, item) in enumerate(zip(parts, value, strict=True)):
            found += wrongs(part, item, f"{where}[{number}]")
    if isinstance(value, dict):
        found += [f"{where}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        more = schema.get("additionalProperties", True)
        for name, item in value.items():
            known = schema.get("properties", {}).get(name, more)
            if type(name) is not str:
                found.append(f"{where}: {name!r} is no name")
            elif known is not True:
                found += wrongs(known, item, f"{where}.{name}")
    return found


@dataclass(frozen=True, slots=True)
class SchemaGo:
    calls: bool


@dataclass(frozen=True, slots=True)
class SchemaAsk:
    text: str = ""


ASKED = Topic("schema.asked")


class SchemaDesk(Agent, type="schema_desk"):
    """Keeps what comes waiting, so that it stays in the mailbox."""

    open: ClassVar[asyncio.Event]

    @rpc
    async def ask(self, message: SchemaAsk) -> str:
        await SchemaDesk.open.wait()
        return message.text


class SchemaClerk(Agent, type="schema_clerk"):
    @event
    async def go(self, message: SchemaGo, ctx: Context) -> None:
        desk = AgentId("schema_desk", "k")
        ctx.send(desk, SchemaAsk("sent"), headers={"who": "me"}, priority=Priority.LOW)
        ctx.publish(ASKED("k"), SchemaAsk("published"))
        ctx.send(desk, SchemaAsk("x" * 300_000))
        if message.calls:
            await ctx.call(desk, SchemaAsk("called"), timeout=20)


async def recorded(mesh: starling.testing.TestMesh, pool: str) -> list[Mapping[str, Any]]:
    """Return the envelopes that the pool's mailbox holds, as they are stored."""
    names, found, first = MeshNames("test").pool(PoolName(pool)), list[Mapping[str, Any]](), 1
    stream, subject = names.mailbox(ShardId(0)), names.mailbox_subjects(ShardId(0))
    while page := await mesh._store.page(stream, subject, first):
        for message in page:
            found += open_frame(message.data)
        first = page[-1].sequence + 1
    return found


@pytest.mark.row("RT-90", part="the published schema validates recorded messages", completes=True)
async def test_the_published_schema_validates_messages_as_they_are_stored() -> None:
    SchemaDesk.open = asyncio.Event()
    subscriptions = {"schema.asked": SchemaDesk}
    async with starling.testing.mesh(SchemaDesk, SchemaClerk, subscriptions=subscriptions, shards=1) as mesh:
        await mesh.send(AgentId("schema_clerk", "sends"), SchemaGo(False))
        await mesh.send(AgentId("schema_clerk", "calls"), SchemaGo(True))
        await mesh.send(AgentId("schema_desk", "k"), SchemaAsk("from outside"), priority=Priority.URGENT)
        messages: list[Mapping[str, Any]] = []
        for _ in range(1000):
            messages = await recorded(mesh, "schema-desk")
            if len(messages) >= 5:
                break
            await asyncio.sleep(0.005)
        SchemaDesk.open.set()
        await mesh.idle()
    assert len(messages) == 5
    assert [wrongs(SCHEMA, message) for message in messages] == [[]] * 5
    assert {"s", "tp", "h", "p", "r", "dl", "ch", "bb", "c"} <= set().union(*messages)


@given(ENVELOPES)
def test_every_envelope_that_is_written_is_as_the_schema_says(envelope: Envelope) -> None:
    assert wrongs(SCHEMA, msgpack.unpackb(envelope.pack())) == []


def test_the_schema_names_every_field_and_no_other() -> None:
    assert set(msgpack.unpackb(FULL.pack())) == set(SCHEMA["properties"])


@pytest.mark.parametrize("name", sorted(SCHEMA["properties"]))
def test_the_schema_refuses_what_the_code_refuses(name: str) -> None:
    good = msgpack.unpackb(FULL.pack())
    assert wrongs(SCHEMA, good) == []
    values: list[Any] = [None, True, 1, 4, -1, 1.5, "x", "a b", "x\n", b"x", [], ["x"], ["x", "y"], ["x", ""], [1, 2]]
    values += [{}, {"x": "y"}, {"x": 1}, {1: "x"}, ["p", "o", 1, b"d", 1], ["p", "o", "1", b"d", 1]]
    for value in values:
        try:
            Envelope.from_map({**good, name: value})
        except DecodeError:
            assert wrongs(SCHEMA, {**good, name: value}), value
        else:
            assert wrongs(SCHEMA, {**good, name: value}) == [], value
    without = {key: value for key, value in good.items() if key != name}
    assert bool(wrongs(SCHEMA, without)) == (name in ("i", "t", "b", "a"))
