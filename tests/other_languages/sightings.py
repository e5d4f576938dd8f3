"""Protobuf messages without a compiler: their classes from a descriptor, as `protoc` would make them; and an agent.

```proto
syntax = "proto3";
package starling.tests;

enum Certainty { CERTAINTY_UNSPECIFIED = 0; SURE = 1; PERHAPS = 2; }
message Place { double latitude = 1; double longitude = 2; }
message Sighting {
  string bird = 1;
  int64 seen_at = 2;
  repeated Place path = 3;
  map<string, uint32> counts = 4;
  Certainty certainty = 5;
  bytes picture = 6;
  optional sint32 altitude = 7;
}
message Noted { uint32 sightings = 1; }
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MessageOptions,
    OneofDescriptorProto,
)
from starling import Agent, event, rpc
from starling.protobuf import register_protobuf

_PACKAGE = "starling.tests"
_ONE, _MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED


def _field(number: int, name: str, kind: str, *, label: int = _ONE, type_name: str = "", **more: Any) -> Any:
    full = f".{_PACKAGE}.{type_name}" if type_name else None
    value = FieldDescriptorProto.Type.Value(f"TYPE_{kind}")
    return FieldDescriptorProto(name=name, number=number, type=value, label=label, type_name=full, **more)


FILE = FileDescriptorProto(
    name="sightings.proto",
    package=_PACKAGE,
    syntax="proto3",
    enum_type=[
        EnumDescriptorProto(
            name="Certainty",
            value=[
                EnumValueDescriptorProto(name=name, number=number)
                for number, name in enumerate(("CERTAINTY_UNSPECIFIED", "SURE", "PERHAPS"))
            ],
        )
    ],
    message_type=[
        DescriptorProto(name="Place", field=[_field(1, "latitude", "DOUBLE"), _field(2, "longitude", "DOUBLE")]),
        DescriptorProto(
            name="Sighting",
            field=[
                _field(1, "bird", "STRING"),
                _field(2, "seen_at", "INT64"),
                _field(3, "path", "MESSAGE", label=_MANY, type_name="Place"),
                _field(4, "counts", "MESSAGE", label=_MANY, type_name="Sighting.CountsEntry"),
                _field(5, "certainty", "ENUM", type_name="Certainty"),
                _field(6, "picture", "BYTES"),
                _field(7, "altitude", "SINT32", proto3_optional=True, oneof_index=0),
            ],
            oneof_decl=[OneofDescriptorProto(name="_altitude")],
            nested_type=[
                DescriptorProto(
                    name="CountsEntry",
                    field=[_field(1, "key", "STRING"), _field(2, "value", "UINT32")],
                    options=MessageOptions(map_entry=True),
                )
            ],
        ),
        DescriptorProto(name="Noted", field=[_field(1, "sightings", "UINT32")]),
    ],
)
DESCRIPTORS = FileDescriptorSet(file=[FILE])

_pool = descriptor_pool.DescriptorPool()
_pool.Add(FILE)
Place, Sighting, Noted = (
    message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
    for name in ("Place", "Sighting", "Noted")
)
register_protobuf(Sighting, Noted)


@dataclass
class Notes:
    sightings: int = 0
    last: str = ""


class Notebook(Agent[Notes], type="notebook"):
    """Counts what it hears of."""

    @event
    async def sighted(self, message: Sighting) -> None:  # type: ignore[valid-type]
        self.state.sightings += 1
        self.state.last = f"{message.bird} {sorted(message.counts.items())} {len(message.path)}"  # type: ignore[attr-defined]

    @rpc
    async def note(self, message: Sighting) -> Noted:  # type: ignore[valid-type]
        self.state.sightings += 1
        return Noted(sightings=self.state.sightings)  # type: ignore[no-any-return]


def sighting(bird: str) -> Any:
    """One with a value of each kind."""
    return Sighting(
        bird=bird,
        seen_at=1_764_000_000_123,
        path=[Place(latitude=52.5, longitude=13.25), Place(latitude=-0.5)],
        counts={"adults": 2, "young": 7},
        certainty=2,
        picture=b"\x00\xff",
        altitude=-12,
    )
