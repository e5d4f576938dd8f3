"""`python -m benchmarks.load '{"workload": "calls", …}'`: one load on a mesh; prints its figures as one JSON line."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any, Final

from starling.client import Mesh, connect
from starling.core.ids import AgentId

from benchmarks.agents import ADD, Add, AddNow, Hop, HopNow, Parcel, Peek, Read, Spread
from benchmarks.cost import Cost
from benchmarks.figures import latencies

READ_AT_ONCE: Final = 500


async def gathered(count: int, at_once: int, act: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """Do `act` for 0 to count - 1, `at_once` at a time; return what came back, in order."""
    results: list[Any] = [None] * count
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            results[number] = await act(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(at_once, count)):
            tasks.create_task(worker())
    return results


async def counted(mesh: Mesh, keys: int, prefix: str = "k") -> int:
    """Sum of all counters; each answers after what was sent to it before."""
    answers = await gathered(
        keys, READ_AT_ONCE, lambda n: mesh.call(AgentId("counter", f"{prefix}{n}"), Read(), timeout=600.0)
    )
    return sum(answer.handled for answer in answers)


def zipf_keys(keys: int, exponent: float, chance: random.Random) -> Callable[[int], list[int]]:
    """Return a function that draws key numbers: the n-th most popular key has weight 1 / n^exponent."""
    weights = list(accumulate(1 / (rank + 1) ** exponent for rank in range(keys)))
    return lambda count: chance.choices(range(keys), cum_weights=weights, k=count)


class Load:
    """The workloads. Each takes its parameters from the command line's JSON and returns figures.

    pids: of the processes whose CPU time counts beside our own.
    """

    def __init__(self, mesh: Mesh, pids: Sequence[int] = ()) -> None:
        self.mesh = mesh
        self._pids = list(pids)

    async def _timed(self, in_flight: int, seconds: float, act: Callable[[int], Awaitable[Any]]) -> dict[str, float]:
        """Keep so many calls under way for so long; return rate and latencies."""
        taken: list[float] = []
        now = time.perf_counter
        cost = Cost(self._pids)
        started = now()
        end = started + seconds
        number = 0

        async def worker() -> None:
            nonlocal number
            while (begun := now()) < end:
                number += 1
                await act(number)
                taken.append(now() - begun)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(worker())
        return {"per_second": len(taken) / (now() - started), **latencies(taken), **cost.each(len(taken))}

    async def calls(self, in_flight: int = 1, keys: int = 1000, seconds: float = 2.0) -> dict[str, float]:
        """Durable calls over `keys` counters, which are active already."""
        before = await counted(self.mesh, keys)
        figures = await self._timed(
            in_flight,
            seconds,
            lambda n: self.mesh.call(AgentId("counter", f"k{n % keys}"), AddNow(), timeout=60.0),
        )
        return {**figures, "counted": await counted(self.mesh, keys) - before}

    async def calls_over_relay(self, in_flight: int = 1, keys: int = 100, seconds: float = 2.0) -> dict[str, float]:
        """Calls that the first agent can only answer after a call of its own."""
        return await self._timed(
            in_flight,
            seconds,
            lambda n: self.mesh.call(AgentId("relay", f"r{n % keys}"), HopNow(f"k{n % keys}"), timeout=60.0),
        )

    async def fleeting(self, in_flight: int = 1, keys: int = 1000, seconds: float = 2.0) -> dict[str, float]:
        """Calls to agents that record nothing: through the log, answered before any commit."""
        return await self._timed(
            in_flight, seconds, lambda n: self.mesh.call(AgentId("fleeting", f"k{n % keys}"), AddNow(), timeout=60.0)
        )

    async def queries(self, in_flight: int = 1, keys: int = 1000, seconds: float = 2.0) -> dict[str, float]:
        """Read-only questions past the log."""
        await counted(self.mesh, keys)
        return await self._timed(
            in_flight, seconds, lambda n: self.mesh.query(AgentId("counter", f"k{n % keys}"), Peek(), timeout=10.0)
        )

    async def bodies(self, size_bytes: int, in_flight: int = 4, seconds: float = 2.0) -> dict[str, float]:
        """Calls with large bodies."""
        parcel = Parcel("x" * size_bytes)
        figures = await self._timed(
            in_flight, seconds, lambda n: self.mesh.call(AgentId("scale", f"s{n % 64}"), parcel, timeout=60.0)
        )
        return {**figures, "mb_per_second": figures["per_second"] * size_bytes / 1e6}

    async def one_way(
        self,
        messages: int,
        keys: int = 1000,
        zipf: float = 0.0,
        in_flight: int = 2000,
        ids: bool = False,
        count: bool = True,
    ) -> dict[str, float]:
        """Publish to counters and wait until each has counted all of it. ids: no frames, a message each."""
        before = await counted(self.mesh, keys) if count else 0
        chance = random.Random(1)
        drawn = zipf_keys(keys, zipf, chance)(messages) if zipf else [n % keys for n in range(messages)]
        run = f"{random.SystemRandom().getrandbits(48):x}"
        topics = [ADD(f"k{n}") for n in range(keys)]
        rows: Iterator[Any] = (
            (topics[key], Add(), f"{run}-{number}" if ids else None) for number, key in enumerate(drawn)
        )
        cost = Cost(self._pids)
        started = time.perf_counter()
        await self.mesh.publish_all(rows, in_flight=in_flight, timeout=120.0)
        stored = time.perf_counter() - started
        if not count:
            return {"stored_per_second": messages / stored, "seconds": stored}
        handled = await counted(self.mesh, keys) - before
        seconds = time.perf_counter() - started
        return {
            "per_second": messages / seconds,
            "stored_per_second": messages / stored,
            **cost.each(messages),
            "lost": max(0, messages - handled),
            "doubled": max(0, handled - messages),
        }

    async def relayed(self, messages: int, keys: int = 200, in_flight: int = 2000) -> dict[str, float]:
        """One way over two agents."""
        return await self._spread(
            messages, messages, in_flight, keys, lambda n: (AgentId("relay", f"r{n % keys}"), Hop(f"k{n % keys}"))
        )

    async def fan_out(self, messages: int, targets: int, in_flight: int = 200) -> dict[str, float]:
        """One message in, `targets` out, all durable; per_second counts deliveries."""
        return await self._spread(
            messages,
            messages * targets,
            in_flight,
            targets,
            lambda n: (AgentId("relay", f"r{n % 64}"), Spread("k", targets)),
        )

    async def _spread(
        self,
        messages: int,
        expected: int,
        in_flight: int,
        keys: int,
        message: Callable[[int], tuple[AgentId, object]],
    ) -> dict[str, float]:
        before = await counted(self.mesh, keys)
        cost = Cost(self._pids)
        started = time.perf_counter()

        async def send(number: int) -> None:
            target, what = message(number)
            await self.mesh.send(target, what, timeout=60.0)

        await gathered(messages, in_flight, send)
        while (handled := await counted(self.mesh, keys) - before) < expected:
            if time.perf_counter() - started > 120:
                break
            await asyncio.sleep(0.01)
        return {
            "per_second": expected / (time.perf_counter() - started),
            **cost.each(expected),
            "lost": max(0, expected - handled),
            "doubled": max(0, handled - expected),
        }

    async def total(self, keys: int) -> dict[str, float]:
        """How much all counters have counted, once they have handled what waits for them."""
        return {"counted": await counted(self.mesh, keys)}

    async def first_messages(
        self, messages: int, first: int = 0, in_flight: int = 4000, per_second: float = 0.0
    ) -> dict[str, float]:
        """One message to each of so many keys, none of which had one before. per_second: 0 as fast as they go."""
        rows = ((ADD(f"m{first + number}"), Add(), None) for number in range(messages))
        started = time.perf_counter()
        at_once = max(1, int(per_second / 50)) if per_second else messages
        for sent in range(0, messages, at_once):
            await asyncio.sleep(sent / per_second - (time.perf_counter() - started) if sent else 0.0)
            await self.mesh.publish_all(islice(rows, at_once), in_flight=in_flight, timeout=120.0)
        return {"stored_per_second": messages / (time.perf_counter() - started)}

    async def paced(self, per_second: float, seconds: float, keys: int = 1000) -> dict[str, float]:
        """Publish at a steady rate: the load under which something else is measured."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        sent = 0
        async with asyncio.TaskGroup() as tasks:
            while (passed := loop.time() - started) < seconds:
                while sent < passed * per_second:
                    tasks.create_task(self.mesh.publish(ADD(f"k{sent % keys}"), Add(), timeout=60.0))
                    sent += 1
                await asyncio.sleep(0.005)
        return {"per_second": sent / (loop.time() - started)}

    async def activations(self, keys: int, first: int = 0, in_flight: int = 1) -> dict[str, float]:
        """Call each of so many agents once."""
        taken = [0.0] * keys
        started = time.perf_counter()

        async def call(number: int) -> None:
            begun = time.perf_counter()
            await self.mesh.call(AgentId("counter", f"c{first + number}"), AddNow(), timeout=60.0)
            taken[number] = time.perf_counter() - begun

        await gathered(keys, in_flight, call)
        return {"per_second": keys / (time.perf_counter() - started), **latencies(taken)}


async def main(given: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one workload."""
    url, mesh, workload, pids = (given.pop(name) for name in ("url", "mesh", "workload", "pids"))
    async with connect(url, mesh=mesh) as client:
        figures: dict[str, float] = await getattr(Load(client, pids), workload)(**given)
        return figures


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))))
