"""What holds for every object: it survives dump and parse, and nothing but a SpecError comes out of a wrong one."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from starling.errors import SpecError
from starling_operator.api import parse
from starling_operator.api.fields import AGENT_TYPE_PATTERN, NUMBER_PATTERN, POOL_NAME_PATTERN, SIZE_PATTERN

OBJECTS = runpy.run_path(str(Path(__file__).with_name("objects.py")))
GOOD = [good for _, good in OBJECTS["GOOD"]]

settings.register_profile("api", deadline=None)
relaxed = settings(settings.get_profile("api"))


def text_of(pattern: str, longest: int) -> st.SearchStrategy[str]:
    return st.from_regex(pattern.rstrip("$") + r"\Z").filter(lambda text: len(text) <= longest)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
agents = st.fixed_dictionaries(
    {"type": text_of(AGENT_TYPE_PATTERN, 63), "entrypoint": st.just("flights:Airport")},
    optional={
        "durability": st.sampled_from(["committed", "none"]),
        "passivation": st.fixed_dictionaries({}, optional={"idleSeconds": st.integers(1, 86_400)}),
        "concurrency": st.integers(1, 10_000),
    },
)
deliveries = st.fixed_dictionaries(
    {},
    optional={
        "attempts": st.integers(1, 100),
        "backoff": st.sampled_from(["fixed", "linear", "exponential"]),
        "initialSeconds": st.floats(0, 60),
        "maxSeconds": st.floats(60, 86_400),
        "jitter": st.booleans(),
    },
)
pool_specs = st.fixed_dictionaries(
    {"agents": st.lists(agents, min_size=1, max_size=4, unique_by=lambda agent: agent["type"])},
    optional={
        "replicas": st.integers(0, 1000),
        "shards": st.integers(1, 1024),
        "delivery": deliveries,
        "streams": st.fixed_dictionaries(
            {},
            optional={
                "replicas": st.sampled_from([1, 3, 5]),
                "maxBytes": st.integers(1, 2**53) | text_of(SIZE_PATTERN, 20),
            },
        ),
        "template": st.dictionaries(st.text(max_size=4), json_values.filter(lambda value: value == value), max_size=3),
    },
)
target_specs = st.fixed_dictionaries(
    {
        "poolRef": st.fixed_dictionaries({"name": text_of(POOL_NAME_PATTERN, 50)}),
        "minReplicas": st.integers(0, 10),
        "maxReplicas": st.integers(10, 1000),
    },
    optional={
        "fallbackReplicas": st.just(10),
        "signals": st.builds(
            lambda value: [{"type": "LagPerPod", "target": value}],
            st.integers(1, 2**53) | text_of(NUMBER_PATTERN, 20),
        ),
        "rebalance": st.fixed_dictionaries({}, optional={"tolerance": st.floats(0, 10), "enabled": st.booleans()}),
    },
)


def survives(made: dict[str, Any]) -> None:
    parsed = parse(made)
    again = parse(parsed.dump())
    assert again == parsed
    assert again.dump() == parsed.dump()


def finite(value: Any) -> bool:
    if isinstance(value, float):
        return value - value == 0
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(finite, inner))


@relaxed
@given(pool_specs.filter(finite), st.booleans())
def test_every_pool_survives_dump_and_parse(spec: dict[str, Any], as_image: bool) -> None:
    code = {"image": "example.org/flights:1.0"} if as_image else {"code": {"configMap": "code"}}
    survives({**OBJECTS["pool"](), "spec": {**spec, **code}})


@relaxed
@given(target_specs)
def test_every_target_survives_dump_and_parse(spec: dict[str, Any]) -> None:
    survives({**OBJECTS["target"](), "spec": spec})


@relaxed
@given(st.text(st.characters(categories=["L", "N"], include_characters="_.:=-"), min_size=1, max_size=128), deliveries)
def test_every_subscription_survives_dump_and_parse(topic: str, delivery: dict[str, Any]) -> None:
    survives(OBJECTS["subscription"](topic=topic, delivery=delivery))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


@relaxed
@given(st.data())
def test_a_spoilt_object_is_taken_or_refused_by_a_field_and_nothing_else(data: st.DataObject) -> None:
    spoilt = copy.deepcopy(data.draw(st.sampled_from(GOOD)))
    *way, last = data.draw(st.sampled_from(places(spoilt)[1:]))
    holder = spoilt
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(json_values)

    try:
        made = parse(spoilt, refuse_unknown=True)
    except SpecError as error:
        refused = error
    else:
        assert parse(made.dump()) == made or not finite(spoilt)
        return
    assert refused.field
    assert refused.problem
