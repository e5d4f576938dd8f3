"""Agent classes by the entrypoint of a manifest; topics."""

from __future__ import annotations

from pathlib import Path

import pytest
from starling import Topic, TopicId
from starling.entrypoints import load
from starling.errors import SpecError

SOURCE = """
from starling import Agent, event

class Port(Agent):
    @event
    async def take(self, message: int) -> None: ...

class Outer:
    class Inner(Agent): ...

number = 5
"""


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "entry_good.py").write_text(SOURCE)
    (tmp_path / "entry_needs.py").write_text("import not_installed_anywhere")
    (tmp_path / "entry_raises.py").write_text("1 // 0")
    (tmp_path / "entry_wrong.py").write_text(
        "from starling import Agent, event\nclass Bad(Agent):\n  @event\n  def f(self, m: int): ...\n"
    )


def test_an_entrypoint_is_loaded() -> None:
    assert load("entry_good:Port").type == "port"
    assert load("entry_good:Port", "port") is load("entry_good:Port")
    assert load("entry_good:Outer.Inner").type == "inner"


@pytest.mark.parametrize(
    ("entrypoint", "problem"),
    [
        ("entry_good", "not of the form module:Class"),
        ("entry_good:", "not of the form module:Class"),
        (":Port", "not of the form module:Class"),
        ("entry_missing:Port", "there is no module 'entry_missing' on the path"),
        ("entry_missing.inner:Port", "there is no module 'entry_missing' on the path"),
        ("entry_good:Ship", "module 'entry_good' has no 'Ship'"),
        ("entry_good:number", "is not an Agent class"),
        ("entry_good:Agent", "is not an Agent class"),
        ("entry_needs:Port", "module 'entry_needs' needs 'not_installed_anywhere', which is missing"),
        ("entry_raises:Port", "importing it failed: ZeroDivisionError"),
        ("entry_wrong:Bad", "async def"),
    ],
)
def test_what_is_wrong_with_an_entrypoint_is_said(entrypoint: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as refused:
        load(entrypoint, field="spec.agents[0].entrypoint")
    assert refused.value.field == "spec.agents[0].entrypoint"


def test_a_manifest_and_a_class_that_disagree_are_refused_with_both_types() -> None:
    with pytest.raises(SpecError, match="the manifest says type 'harbour', but entry_good:Port says 'port'"):
        load("entry_good:Port", "harbour")


@pytest.mark.row("RT-36")
def test_a_topic_gives_topic_ids() -> None:
    topic = Topic("airport.milestone:v=1-b")
    assert topic("EWR / any *text>") == TopicId("airport.milestone:v=1-b", "EWR / any *text>")
    assert {topic("a"), topic("a")} == {TopicId(topic.type, "a")}
    with pytest.raises(SpecError, match="topic type"):
        Topic("air port")
