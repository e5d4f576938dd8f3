"""An agent's shard depends on its type, its key and the number of shards: a table from a real server, for ever."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import nats
import pytest
import starling
from starling.adapters.nats import EmbeddedServer
from starling.core.ids import shard_of, token

SHARDS = (1, 7, 16, 100, 1024)

# (type, key): its shard among 1, 7, 16, 100 and 1024, as a nats-server's partition mapping computed them.
GOLDEN = {
    ("a", "k"): (0, 2, 5, 13, 709),
    ("airport", "EWR"): (0, 4, 14, 22, 590),
    ("airport", "JFK"): (0, 6, 9, 81, 617),
    ("flight", "UA1545"): (0, 3, 4, 20, 932),
    ("weather_station", "x"): (0, 4, 0, 64, 848),
    ("a.b", "a.b"): (0, 5, 15, 71, 543),
    ("a-b", "a b"): (0, 5, 11, 55, 219),
    ("counter", "*"): (0, 3, 11, 15, 667),
    ("counter", ">"): (0, 4, 10, 70, 42),
    ("counter", "Zürich"): (0, 1, 10, 38, 90),
    ("counter", "🛫"): (0, 1, 0, 88, 640),
    ("counter", "="): (0, 2, 13, 89, 445),
    ("counter", "%2E"): (0, 6, 14, 10, 974),
    ("counter", "a/b"): (0, 3, 13, 73, 685),
    ("counter", "x" * 256): (0, 0, 3, 35, 547),
    ("_", "0"): (0, 4, 10, 18, 762),
    ("ab", "c"): (0, 5, 11, 31, 267),
    ("a", "bc"): (0, 5, 11, 31, 267),
    ("T" * 63, "k"): (0, 2, 8, 8, 232),
}

MANY = [(kind, f"{kind[0]}-{n}") for kind in ("airport", "weather_station", "a.b") for n in range(200)]


def shards_of(kind: str, key: str) -> tuple[int, ...]:
    return tuple(shard_of(kind, key, shards) for shards in SHARDS)


@pytest.mark.row("CP-4", part="golden table")
@pytest.mark.parametrize(("agent", "shards"), GOLDEN.items(), ids=repr)
def test_an_agent_has_the_shards_of_the_table(agent: tuple[str, str], shards: tuple[int, ...]) -> None:
    assert shards_of(*agent) == shards


def mappings(directory: Path) -> Path:
    """Write a configuration in which the server itself maps two tokens to a shard."""
    rules = "\n".join(f'  "at{n}.*.*": "part{n}.{{{{partition({n},1,2)}}}}.{{{{wildcard(1)}}}}"' for n in SHARDS)
    config = directory / "nats.conf"
    config.write_text(f"mappings = {{\n{rules}\n}}\n")
    return config


async def partitions(directory: Path, agents: list[tuple[str, str]]) -> list[tuple[int, ...]]:
    """Return for each agent what a server's own mapping makes of its two tokens."""
    config = mappings(directory)
    server = EmbeddedServer(directory, arguments=("--config", str(config)))
    await server.start()
    try:
        client = await nats.connect(server.url)
        heard: list[list[int]] = [[] for _ in SHARDS]
        for place, shards in enumerate(SHARDS):

            async def note(message: object, place: int = place) -> None:
                heard[place].append(int(message.subject.split(".")[1]))  # type: ignore[attr-defined]

            await client.subscribe(f"part{shards}.>", cb=note)
        await client.flush()
        for kind, key in agents:
            for shards in SHARDS:
                await client.publish(f"at{shards}.{token(kind)}.{token(key)}")
        await client.flush()
        async with asyncio.timeout(30):
            while any(len(numbers) < len(agents) for numbers in heard):
                await asyncio.sleep(0.01)
        await client.close()
    finally:
        await server.kill()
    return list(zip(*heard, strict=True))


@pytest.mark.row("CP-4", part="equal to the server's own mapping")
async def test_the_servers_own_partition_mapping_finds_the_same_shards(tmp_path: Path) -> None:
    agents = [*GOLDEN, *MANY]
    assert await partitions(tmp_path, agents) == [shards_of(*agent) for agent in agents]


# The package without what its `__init__` imports: a hundred processes start in a few seconds.
LOOK_UP = """
import json, sys, types
package = types.ModuleType("starling")
package.__path__ = [sys.argv[1]]
sys.modules["starling"] = package
from starling.core.ids import shard_of
print(json.dumps([hash("a"), [shard_of(kind, key, 16) for kind, key in json.loads(sys.argv[2])]]))
"""


@pytest.mark.row("CP-4", part="equal in 100 processes with different hash seeds", completes=True)
def test_a_hundred_processes_with_different_hash_seeds_agree() -> None:
    command = [sys.executable, "-S", "-c", LOOK_UP, *map(str, starling.__path__), json.dumps(MANY)]
    told = [
        json.loads(subprocess.run(command, env={"PYTHONHASHSEED": str(seed)}, capture_output=True, check=True).stdout)
        for seed in range(100)
    ]
    assert len({seeded for seeded, _ in told}) > 90
    assert all(shards == [shard_of(*agent, 16) for agent in MANY] for _, shards in told)


def test_keys_spread_evenly_over_the_shards() -> None:
    for kind in ("airport", "flight"):
        counts = [0] * 16
        for number in range(16_000):
            counts[shard_of(kind, f"N{number}", 16)] += 1
        assert min(counts) > 800
        assert max(counts) < 1200
