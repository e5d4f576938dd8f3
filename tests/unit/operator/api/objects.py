"""Objects that parser and API server must both take, or both refuse naming the same field.

GOOD: what it shows, object. BAD: what is wrong, object, field. CHANGES: what is wrong, before, after, field.
"""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]
API_VERSION = "starlingmesh.dev/v1alpha1"
AGENT: Json = {"type": "airport", "entrypoint": "flights:Airport"}


def pool(*, name: str = "airports", **spec: Any) -> Json:
    base = {"code": {"configMap": "flights-agents"}, "agents": [AGENT]}
    return _object("AgentPool", name, {**base, **spec})


def subscription(**spec: Any) -> Json:
    base = {"topic": "airport.movement", "poolRef": {"name": "airports"}, "agentType": "airport"}
    return _object("AgentSubscription", "airports-hear", {**base, **spec})


def target(**spec: Any) -> Json:
    base = {"poolRef": {"name": "airports"}, "maxReplicas": 8}
    return _object("AgentScalingTarget", "airports-scale", {**base, **spec})


def without(made: Json, field: str) -> Json:
    copied = copy.deepcopy(made)
    del copied["spec"][field]
    return copied


def _object(kind: str, name: str, spec: Json) -> Json:
    return copy.deepcopy({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})


def agent(**fields: Any) -> Json:
    return {**AGENT, **fields}


def signal(value: Any, kind: str = "LagPerPod") -> Json:
    return {"type": kind, "target": value}


GOOD: list[tuple[str, Json]] = [
    ("the least that a pool says", pool()),
    ("an image instead of code", without(pool(image="example.org/flights:1.0"), "code")),
    ("code with an image of its own", pool(code={"configMap": "a.b", "image": "example.org/base@sha256:00"})),
    ("no pods", pool(replicas=0)),
    ("most of everything", pool(replicas=1000, shards=1024, drainSeconds=86400)),
    ("the longest pool name", pool(name="a" + "b" * 49)),
    ("sixty-four agent types", pool(agents=[agent(type=f"t{number}") for number in range(64)])),
    ("an agent type of 63", pool(agents=[agent(type="_" + "x" * 62)])),
    (
        "an agent with all its fields",
        pool(agents=[agent(durability="none", passivation={"idleSeconds": 5, "maxActive": 9}, concurrency=3)]),
    ),
    ("a nested module", pool(agents=[agent(entrypoint="my.own_module:Class_1")])),
    ("a delivery policy", pool(delivery={"backoff": "linear", "initialSeconds": 0.1, "maxSeconds": 0.1})),
    ("streams of three", pool(streams={"replicas": 3, "maxBytes": 1048576, "storage": "memory"})),
    ("sizes as text", pool(streams={"maxBytes": "512Mi"})),
    ("null is as good as absent", pool(replicas=None, shards=None, delivery={"attempts": None})),
    ("a free template", pool(template={"spec": {"nodeSelector": {"disk": "fast"}, "x": [1, None, {"y": True}]}})),
    ("what goes with the pool", pool(deletionPolicy="Delete", dryRun=True)),
    ("the least that a subscription says", subscription()),
    ("a topic of all its characters", subscription(topic="Größe_1.x:y=z-ab")),
    ("the key said", subscription(key={"from": "source"})),
    ("a prefix", subscription(topic="airport.", match="prefix")),
    ("a pattern", subscription(topic="airport.*.größe.>", match="pattern")),
    ("every topic", subscription(topic=">", match="pattern")),
    ("one agent for all", subscription(key={"from": "fixed", "value": "the one/é"})),
    ("part of a policy", subscription(delivery={"attempts": 1})),
    ("an empty policy", subscription(delivery={})),
    ("the least that a target says", target()),
    ("the example's pace", target(
        minReplicas=2,
        signals=[signal("500")],
        behavior={"stabilizationSeconds": 5},
        rebalance={"intervalSeconds": 5, "settleSeconds": 10, "windowSeconds": 15, "tolerance": 0.2},
    )),
    ("scale to zero", target(minReplicas=0, fallbackReplicas=0)),
    ("a signal as a number", target(signals=[signal(500)])),
    ("a signal as a fraction", target(signals=[signal("0.8")])),
    ("a signal in thousandths", target(signals=[signal("800m")])),
    ("no rebalancing", target(rebalance={"enabled": False, "tolerance": 1, "maxMovesPerRound": 3})),
]  # fmt: skip

BAD: list[tuple[str, Json, str]] = [
    ("no spec", {key: value for key, value in pool().items() if key != "spec"}, "spec"),
    ("a name with a dot", pool(name="air.ports"), "metadata.name"),
    ("a name that starts with a digit", pool(name="1airports"), "metadata.name"),
    ("a name of 51", pool(name="a" * 51), "metadata.name"),
    ("a name with capitals", pool(name="Airports"), "metadata.name"),
    ("neither code nor image", without(pool(), "code"), "spec.code"),
    ("code and image", pool(image="example.org/flights:1.0"), "spec.code"),
    ("code without a ConfigMap", pool(code={}), "spec.code.configMap"),
    ("a ConfigMap that cannot be", pool(code={"configMap": "Not A Name"}), "spec.code.configMap"),
    ("an image with a space", without(pool(image="a b"), "code"), "spec.image"),
    ("an empty image", without(pool(image=""), "code"), "spec.image"),
    ("an image of 513", without(pool(image="a" * 513), "code"), "spec.image"),
    ("less than no pods", pool(replicas=-1), "spec.replicas"),
    ("too many pods", pool(replicas=1001), "spec.replicas"),
    ("pods in words", pool(replicas="two"), "spec.replicas"),
    ("half a pod", pool(replicas=1.5), "spec.replicas"),
    ("no shards", pool(shards=0), "spec.shards"),
    ("too many shards", pool(shards=1025), "spec.shards"),
    ("shards in quotes", pool(shards="16"), "spec.shards"),
    ("shards as a flag", pool(shards=True), "spec.shards"),
    ("no agents at all", without(pool(), "agents"), "spec.agents"),
    ("an empty list of agents", pool(agents=[]), "spec.agents"),
    ("agents that are no list", pool(agents={"airport": "flights:Airport"}), "spec.agents"),
    ("sixty-five agent types", pool(agents=[agent(type=f"t{number}") for number in range(65)]), "spec.agents"),
    ("an agent type twice", pool(agents=[AGENT, AGENT]), "spec.agents"),
    ("an agent without type", pool(agents=[{"entrypoint": "flights:Airport"}]), "spec.agents[0].type"),
    ("an empty entrypoint", pool(agents=[AGENT, agent(type="b", entrypoint="")]), "spec.agents[1].entrypoint"),
    ("an agent type with a slash", pool(agents=[agent(type="a/b")]), "spec.agents[0].type"),
    ("an agent type of 64", pool(agents=[agent(type="x" * 64)]), "spec.agents[0].type"),
    ("an agent type that ends in a line break", pool(agents=[agent(type="a\n")]), "spec.agents[0].type"),
    ("an entrypoint without class", pool(agents=[agent(entrypoint="flights")]), "spec.agents[0].entrypoint"),
    ("an entrypoint with a path", pool(agents=[agent(entrypoint="a/b:C")]), "spec.agents[0].entrypoint"),
    ("a durability that is none", pool(agents=[agent(durability="maybe")]), "spec.agents[0].durability"),
    ("no idleness", pool(agents=[agent(passivation={"idleSeconds": 0})]), "spec.agents[0].passivation.idleSeconds"),
    ("no concurrency", pool(agents=[agent(concurrency=0)]), "spec.agents[0].concurrency"),
    ("no attempt", pool(delivery={"attempts": 0}), "spec.delivery.attempts"),
    ("an unknown backoff", pool(delivery={"backoff": "wild"}), "spec.delivery.backoff"),
    ("time that runs backwards", pool(delivery={"initialSeconds": -1}), "spec.delivery.initialSeconds"),
    ("a cap below the first pause", pool(delivery={"initialSeconds": 61}), "spec.delivery.maxSeconds"),
    ("jitter in words", pool(delivery={"jitter": "yes"}), "spec.delivery.jitter"),
    ("two copies", pool(streams={"replicas": 2}), "spec.streams.replicas"),
    ("seven copies", pool(streams={"replicas": 7}), "spec.streams.replicas"),
    ("copies as a flag", pool(streams={"replicas": True}), "spec.streams.replicas"),
    ("a mailbox for nothing", pool(streams={"mailboxLimit": 0}), "spec.streams.mailboxLimit"),
    ("no bytes", pool(streams={"maxBytes": 0}), "spec.streams.maxBytes"),
    ("no bytes as text", pool(streams={"maxBytes": "0"}), "spec.streams.maxBytes"),
    ("bytes of an unknown unit", pool(streams={"maxBytes": "1Gb"}), "spec.streams.maxBytes"),
    ("half a byte", pool(streams={"maxBytes": 1.5}), "spec.streams.maxBytes"),
    ("storage in the air", pool(streams={"storage": "air"}), "spec.streams.storage"),
    ("a negative drain", pool(drainSeconds=-1), "spec.drainSeconds"),
    ("a negative wait", pool(moveWaitSeconds=-1), "spec.moveWaitSeconds"),
    ("a negative grace", pool(memberGraceSeconds=-1), "spec.memberGraceSeconds"),
    ("a policy in small letters", pool(deletionPolicy="keep"), "spec.deletionPolicy"),
    ("a dry run in words", pool(dryRun="yes"), "spec.dryRun"),
    ("a template that is no object", pool(template=["spec"]), "spec.template"),
    ("no topic", without(subscription(), "topic"), "spec.topic"),
    ("an empty topic", subscription(topic=""), "spec.topic"),
    ("a topic with a wildcard", subscription(topic="airport.*"), "spec.topic"),
    ("a prefix with a wildcard", subscription(topic="airport.*", match="prefix"), "spec.topic"),
    ("a wildcard in a word", subscription(topic="air*.x", match="pattern"), "spec.topic"),
    ("words after the rest", subscription(topic="air.>.x", match="pattern"), "spec.topic"),
    ("an empty word", subscription(topic="air..*", match="pattern"), "spec.topic"),
    ("a match that is none", subscription(match="regex"), "spec.match"),
    ("a fixed key without value", subscription(key={"from": "fixed"}), "spec.key.value"),
    ("a value beside the source", subscription(key={"value": "x"}), "spec.key.value"),
    ("a key of too many bytes", subscription(key={"from": "fixed", "value": "é" * 129}), "spec.key.value"),
    ("an empty key", subscription(key={"from": "fixed", "value": ""}), "spec.key.value"),
    ("a topic of 129", subscription(topic="x" * 129), "spec.topic"),
    ("no pool", without(subscription(), "poolRef"), "spec.poolRef"),
    ("a pool without name", subscription(poolRef={}), "spec.poolRef.name"),
    ("a pool that cannot be", subscription(poolRef={"name": "air.ports"}), "spec.poolRef.name"),
    ("a pool by text", subscription(poolRef="airports"), "spec.poolRef"),
    ("no agent type", without(subscription(), "agentType"), "spec.agentType"),
    ("an agent type with a space", subscription(agentType="air port"), "spec.agentType"),
    ("a key from nowhere", subscription(key={"from": "header"}), "spec.key.from"),
    ("no attempt for a topic", subscription(delivery={"attempts": 0}), "spec.delivery.attempts"),
    (
        "a cap below the pause",
        subscription(delivery={"initialSeconds": 2, "maxSeconds": 1}),
        "spec.delivery.maxSeconds",
    ),
    ("no maximum", without(target(), "maxReplicas"), "spec.maxReplicas"),
    ("a maximum of none", target(maxReplicas=0, minReplicas=0), "spec.maxReplicas"),
    ("a maximum below the minimum", target(minReplicas=9), "spec.maxReplicas"),
    ("a maximum below the minimum's default", target(maxReplicas=0), "spec.maxReplicas"),
    ("a negative minimum", target(minReplicas=-1), "spec.minReplicas"),
    ("a fallback above the maximum", target(fallbackReplicas=9), "spec.fallbackReplicas"),
    ("a fallback below the minimum", target(fallbackReplicas=0), "spec.fallbackReplicas"),
    ("a signal nobody knows", target(signals=[signal("5", "Mood")]), "spec.signals[0].type"),
    ("a signal without target", target(signals=[{"type": "LagPerPod"}]), "spec.signals[0].target"),
    ("a signal of zero", target(signals=[signal("0.0")]), "spec.signals[0].target"),
    ("a signal of zero as a number", target(signals=[signal(0)]), "spec.signals[0].target"),
    ("a signal in words", target(signals=[signal("many")]), "spec.signals[0].target"),
    ("a signal twice", target(signals=[signal("5"), signal("6")]), "spec.signals"),
    ("a step of none", target(behavior={"scaleUpLimit": 0}), "spec.behavior.scaleUpLimit"),
    ("a step down of none", target(behavior={"scaleDownLimit": 0}), "spec.behavior.scaleDownLimit"),
    ("an hour too long", target(behavior={"stabilizationSeconds": 3601}), "spec.behavior.stabilizationSeconds"),
    ("no pause between looks", target(rebalance={"intervalSeconds": 0}), "spec.rebalance.intervalSeconds"),
    ("less than no tolerance", target(rebalance={"tolerance": -0.1}), "spec.rebalance.tolerance"),
    ("rounds without moves", target(rebalance={"maxMovesPerRound": 0}), "spec.rebalance.maxMovesPerRound"),
    ("a window too small", target(rebalance={"windowSeconds": 4}), "spec.rebalance.windowSeconds"),
    ("settling backwards", target(rebalance={"settleSeconds": -1}), "spec.rebalance.settleSeconds"),
]

CHANGES: list[tuple[str, Json, Json, str]] = [
    ("shards grow", pool(shards=16), pool(shards=32), "spec.shards"),
    ("shards leave their default", pool(), pool(shards=17), "spec.shards"),
    ("storage changes", pool(), pool(streams={"storage": "memory"}), "spec.streams.storage"),
]
