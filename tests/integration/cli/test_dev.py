"""The command line against `starling dev`: the same manifests, a real control loop, pods as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Ran, run_starling, until

CODE = '''
from dataclasses import dataclass

from starling import Agent, Context, event, rpc


@dataclass
class Sold:
    pieces: int


@dataclass
class Count:
    pass


@dataclass
class Stock:
    sold: int = 0


class Shelf(Agent[Stock]):
    """Counts what is sold from one shelf."""

    @event
    async def sold(self, message: Sold, ctx: Context) -> None:
        """Some pieces went."""
        self.state.sold += message.pieces

    @rpc
    async def count(self, message: Count) -> Stock:
        return self.state
'''

MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: shop-code}
data:
  shop_agents.py: |
%(code)s
---
apiVersion: starlingmesh.dev/v1alpha1
kind: AgentPool
metadata: {name: shop}
spec:
  replicas: 2
  shards: 4
  code: {configMap: shop-code}
  agents: [{type: shelf, entrypoint: "shop_agents:Shelf"}]
---
apiVersion: starlingmesh.dev/v1alpha1
kind: AgentSubscription
metadata: {name: sales}
spec: {topic: sale, poolRef: {name: shop}, agentType: shelf}
"""


class Shop:
    """A running `starling dev`."""

    def __init__(self, status: Path, manifests: Path) -> None:
        self._status = status
        self.manifests = manifests

    @property
    def nats(self) -> str:
        return str(json.loads(self._status.read_text())["nats"])

    async def starling(self, *arguments: str) -> Ran:
        return await run_starling(*arguments, "--nats", self.nats)

    async def pods(self) -> dict[str, Any]:
        told = (await self.starling("status", "--json")).json
        return {pod["pod"]: pod for pod in told["pools"][0]["pods"]}


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    code = "\n".join(f"    {line}" for line in CODE.splitlines())
    (manifests / "shop.yaml").write_text(MANIFESTS % {"code": code})
    status, log = tmp_path / "status.json", tmp_path / "dev.log"
    options = ("--file", str(manifests), "--data", str(tmp_path / "data"), "--port", "0", "--plain")
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from starling.cli import main; main()", "dev", *options, "--status", str(status)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    async def is_ready() -> bool:
        assert process.returncode is None, log.read_text()
        return status.exists() and bool(json.loads(status.read_text())["ready"])

    try:
        await until(is_ready, bound=60.0)
        yield Shop(status, manifests)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60.0):
            await process.wait()


@pytest.mark.row("RT-61")
@pytest.mark.row("CP-39", part="against starling dev: publish, call, status, doctor, agents, drain")
async def test_a_mesh_of_starling_dev_is_used_and_looked_at_from_the_command_line(shop: Shop) -> None:
    assert (await shop.starling("publish", "sale/a1", 'Sold {"pieces": 3}')).out == "stored for 1 agents\n"
    assert (await shop.starling("call", "shelf/a1", "Count")).out == '{"sold":3}\n'
    doctor = await shop.starling("doctor", "--json")
    assert doctor.code == 0, doctor.out
    await _agents_are_described(shop)
    await _somebody_tells_how_full_the_dead_letters_are(shop)
    await _a_pod_is_emptied_and_filled_again(shop)
    assert (await shop.starling("call", "shelf/a1", "Count")).out == '{"sold":3}\n'
    await _agents_go_with_their_pool(shop)


async def _agents_are_described(shop: Shop) -> None:
    listed = (await shop.starling("agents", "--json")).json
    assert [(one["type"], one["pool"], one["description"]) for one in listed] == [
        ("shelf", "shop", "Counts what is sold from one shelf.")
    ]
    shown = (await shop.starling("agents", "shelf")).json
    handlers = {handler["name"]: handler for handler in shown["handlers"]}
    assert handlers["sold"]["kind"] == "event"
    assert handlers["sold"]["description"] == "Some pieces went."
    schema = handlers["sold"]["takes"]["Sold"]
    assert (schema["type"], schema["required"], schema["properties"]["pieces"]["type"]) == (
        "object",
        ["pieces"],
        "integer",
    )
    assert handlers["sold"]["gives"] == {}
    assert list(handlers["count"]["gives"]) == ["Stock"]
    assert (await shop.starling("agents")).out.splitlines()[1].split()[:2] == ["shelf", "shop"]
    unknown = await shop.starling("agents", "self")
    assert (unknown.code, unknown.err) == (
        1,
        "starling: no pool of this mesh runs agent type 'self'; there are: shelf\n",
    )


async def _somebody_tells_how_full_the_dead_letters_are(shop: Shop) -> None:
    told: list[str] = []

    def scrape(address: str) -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    async def is_told() -> bool:
        pages = [await asyncio.to_thread(scrape, pod["metrics"]) for pod in (await shop.pods()).values()]
        told[:] = [
            line for page in pages for line in page.splitlines() if line.startswith("starling_dead_letters_fill")
        ]
        return bool(told)

    await until(is_told, bound=30.0)
    assert told == ['starling_dead_letters_fill_ratio{pool="shop"} 0.0']


async def _a_pod_is_emptied_and_filled_again(shop: Shop) -> None:
    before = await shop.pods()
    assert all(pod["shards"] for pod in before.values())
    drained = await shop.starling("drain", "shop/shop-0", "--timeout", "30")
    assert (drained.code, drained.out) == (0, "shop/shop-0 owns no shard\n"), drained.err
    after = await shop.pods()
    assert (after["shop-0"]["state"], after["shop-0"]["shards"]) == ("draining", [])
    assert after["shop-1"]["shards"] == [0, 1, 2, 3]
    last = await shop.starling("drain", "shop/shop-1", "--timeout", "1")
    assert last.code == 1
    assert "still owns 4 shards after 1 s" in last.err
    for pod in ("shop-0", "shop-1"):
        assert (await shop.starling("drain", f"shop/{pod}", "--undo")).code == 0
    nobody = await shop.starling("drain", "shop/shop-7")
    assert (nobody.code, nobody.err) == (
        2,
        "starling: pod: no pod 'shop-7' of pool shop listens; members are: shop-0, shop-1\n",
    )

    async def both_have_shards() -> bool:
        return all(pod["shards"] and pod["state"] == "ready" for pod in (await shop.pods()).values())

    await until(both_have_shards, bound=30.0)


async def _agents_go_with_their_pool(shop: Shop) -> None:
    text = (shop.manifests / "shop.yaml").read_text()
    (shop.manifests / "shop.yaml").write_text(text.split("\n---\n")[0])

    async def are_gone() -> bool:
        return bool((await shop.starling("agents", "--json")).json == [])

    await until(are_gone, bound=30.0)
