"""The parser takes what the API server takes, and names the field of what it does not."""

from __future__ import annotations

import datetime
import runpy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from starling.core.retry import Backoff, RetryPolicy
from starling.errors import SpecError
from starling_operator.api import (
    AgentPool,
    AgentPoolSpec,
    AgentScalingTarget,
    AgentSubscription,
    Metadata,
    Pause,
    check_change,
    parse,
    parse_as,
)
from starling_operator.api.fields import number, size_bytes

OBJECTS = runpy.run_path(str(Path(__file__).with_name("objects.py")))
pool, subscription, target = OBJECTS["pool"], OBJECTS["subscription"], OBJECTS["target"]


def cases(name: str) -> list[Any]:
    return [pytest.param(*case[1:], id=case[0]) for case in OBJECTS[name]]


@pytest.mark.parametrize("good", cases("GOOD"))
def test_a_good_object_is_taken_and_survives_dump_and_parse(good: dict[str, Any]) -> None:
    made = parse(good, refuse_unknown=True)

    assert made.name == good["metadata"]["name"]
    assert parse(made.dump()) == made


@pytest.mark.row("CP-2")
@pytest.mark.parametrize(("bad", "field"), cases("BAD"))
def test_a_bad_value_is_refused_with_its_field_and_what_would_be_right(bad: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(bad)

    assert refused.value.field == field
    assert any(word in refused.value.problem for word in ("must", "required", "exactly one", "give each"))


@pytest.mark.parametrize(("before", "after", "field"), cases("CHANGES"))
def test_a_change_of_what_is_fixed_is_refused(before: dict[str, Any], after: dict[str, Any], field: str) -> None:
    old, new = parse(before), parse(after)

    with pytest.raises(SpecError) as refused:
        check_change(new, old)

    assert refused.value.field == field
    check_change(old, old)


def test_other_changes_pass() -> None:
    check_change(parse(pool(replicas=3, delivery={"attempts": 1})), parse(pool()))


def test_defaults_of_a_pool_are_the_documented_ones() -> None:
    spec = parse_as(AgentPool, pool()).spec

    assert spec.replicas is None
    assert (spec.shards, spec.streams.replicas, spec.streams.mailbox_limit) == (16, 1, 100_000)
    assert (spec.streams.mailbox_bytes, spec.agents[0].passivation.idle_seconds) == (2**30, None)
    assert (spec.drain_seconds, spec.move_wait_seconds, spec.member_grace_seconds) == (30, 10, 2)
    assert (spec.deletion_policy, spec.dry_run) == ("Keep", False)
    assert spec.delivery.policy() == RetryPolicy(5, Backoff.EXPONENTIAL, 1.0, 60.0, True)


def test_defaults_of_a_target_are_the_documented_ones() -> None:
    spec = parse_as(AgentScalingTarget, target()).spec

    assert (spec.min_replicas, spec.signals, spec.fallback_replicas) == (1, (), None)
    assert spec.behavior.stabilization_seconds == 60
    rebalance = spec.rebalance
    assert (rebalance.enabled, rebalance.interval_seconds, rebalance.tolerance) == (True, 30, 0.2)
    assert (rebalance.max_moves_per_round, rebalance.settle_seconds, rebalance.window_seconds) == (None, 60, 60)


def test_a_subscription_changes_the_pool_s_policy_field_by_field() -> None:
    over = parse_as(AgentSubscription, subscription(delivery={"attempts": 1, "jitter": False})).spec.delivery
    assert over is not None
    base = parse_as(AgentPool, pool(delivery={"backoff": "fixed", "initialSeconds": 2})).spec.delivery

    assert over.policy_over(base) == RetryPolicy(1, Backoff.FIXED, 2.0, 60.0, False)


def test_an_unknown_field_is_ignored_so_that_an_old_operator_reads_newer_objects() -> None:
    newer = {**pool(moodLimit=3), "status": {"mood": "fine"}}

    assert parse(newer).spec == parse(pool()).spec


@pytest.mark.parametrize(
    ("unknown", "field"),
    [
        (pool(drainSecond=3), "spec.drainSecond"),
        (pool(drain_seconds=3), "spec.drain_seconds"),
        (pool(streams={"maxByte": 1}), "spec.streams.maxByte"),
        (pool(agents=[{"type": "a", "entrypoint": "a:A", "concurency": 1}]), "spec.agents[0].concurency"),
        ({**pool(), "specs": {}}, "specs"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_an_unknown_field_is_refused_by_name_where_people_write_manifests(unknown: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(unknown, refuse_unknown=True)

    assert refused.value.field == field


def test_names_of_python_are_no_names_of_manifests() -> None:
    made = subscription()
    made["spec"]["pool_ref"] = made["spec"].pop("poolRef")

    with pytest.raises(SpecError, match=r"spec\.poolRef: is required"):
        parse(made)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"apiVersion": "starlingmesh.dev/v2"}, "apiVersion"),
        ({"apiVersion": None}, "apiVersion"),
        ({"kind": "Pool"}, "kind"),
        ({"kind": None}, "kind"),
        ({"metadata": {}}, "metadata.name"),
        ({"metadata": None}, "metadata"),
        ({"metadata": {"name": "a", "labels": {"x": 1}}}, "metadata.labels.x"),
    ],
)
def test_an_object_of_nobody_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse({**pool(), **change})

    assert refused.value.field == field


def test_an_object_of_another_kind_is_not_taken_for_this_one() -> None:
    with pytest.raises(SpecError, match="kind: must be AgentPool, not 'AgentSubscription'"):
        parse_as(AgentPool, subscription())


def test_values_as_yaml_and_watch_events_have_them_are_read() -> None:
    made = dict(pool())
    template = {2: "two", "spec": MappingProxyType({"since": datetime.date(2013, 1, 1)})}
    made["spec"] = MappingProxyType({**made["spec"], "template": template})
    made["metadata"] = MappingProxyType({"name": "airports", "creationTimestamp": None, "generation": 7})

    read = parse_as(AgentPool, MappingProxyType(made))

    assert read.metadata.generation == 7
    assert read.spec.template == {"2": "two", "spec": {"since": "2013-01-01"}}


def test_a_model_is_frozen() -> None:
    spec = parse_as(AgentPool, pool()).spec

    with pytest.raises(ValueError, match="frozen"):
        spec.shards = 3  # type: ignore[misc]


def test_models_made_in_python_keep_the_rules_too() -> None:
    with pytest.raises(ValueError, match="give exactly one of image and code"):
        AgentPoolSpec(agents=parse_as(AgentPool, pool()).spec.agents)


@pytest.mark.parametrize(
    ("text", "pauses"),
    [(None, set()), ("", set()), ("all", {Pause.ALL}), (" moves, scale-in ,", {Pause.MOVES, Pause.SCALE_IN})],
)
@pytest.mark.row("CP-19", part="the annotation is read")
def test_the_pause_annotation_is_read(text: str | None, pauses: set[Pause]) -> None:
    annotations = {} if text is None else {"starlingmesh.dev/pause": text}

    assert Metadata(name="a", annotations=annotations).pauses == pauses


def test_a_pause_that_nobody_knows_is_named() -> None:
    with pytest.raises(SpecError, match=r"'move'.*known are all, scale-in, scale-out, moves"):
        _ = Metadata(name="a", annotations={"starlingmesh.dev/pause": "move"}).pauses


@pytest.mark.parametrize(("text", "value"), [(7, 7), ("7", 7), ("2Ki", 2048), ("3Mi", 3 * 2**20), ("1Ti", 2**40)])
def test_sizes_have_binary_units(text: int | str, value: int) -> None:
    assert size_bytes(text) == value


@pytest.mark.parametrize(("text", "value"), [(5, 5.0), ("500", 500.0), ("0.8", 0.8), ("800m", 0.8), ("1.5k", 1500.0)])
def test_numbers_have_decimal_units(text: int | str, value: float) -> None:
    assert number(text) == value
