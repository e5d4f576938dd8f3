"""What one writes by hand with nats-py: pull, handle, put the state of each key, answer, acknowledge.

`bench.py worker '{…}'` runs one worker; `bench.py drive '{"workload": …}'` prints figures as one JSON line.
The worker handles what a fetch brought together: puts are gathered, so that their round trips overlap.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from pathlib import Path

import nats
import uvloop
from nats.js.api import AckPolicy, ConsumerConfig

sys.path.append(str(Path(__file__).parents[2]))  # beside the libraries of this environment: only benchmarks/cost.py
from cost import Cost

BATCH = 256


def partition(key, workers):
    return sum(key.encode()) % workers


# -- worker


async def worker(given):
    """Options: url, number, workers, state (whether each message's key is stored),"""
    connection = await nats.connect(given["url"])
    stream = connection.jetstream(publish_async_max_pending=4000)
    number, keeps_state = given["number"], given["state"]
    bucket = await stream.key_value("hand")
    consumer = await stream.pull_subscribe(
        f"hand.{number}.>",
        durable=f"hand-{number}",
        stream="hand",
        config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=20_000),
    )
    counts = {}
    handled = 0

    async def stats(message):
        await message.respond(str(handled).encode())

    await connection.subscribe(f"stats.{number}", cb=stats)

    async def load(key):
        if key in counts:
            return
        try:
            counts[key] = int((await bucket.get(key)).value)
        except nats.js.errors.KeyNotFoundError:
            counts[key] = 0

    print("ready", flush=True)
    while True:
        try:
            batch = await consumer.fetch(BATCH, timeout=5)
        except (nats.errors.TimeoutError, TimeoutError):
            continue
        keys = [message.subject.rpartition(".")[2] for message in batch]
        answers = []
        for key in set(keys):
            await load(key) if keeps_state else counts.setdefault(key, 0)
        for key in keys:
            counts[key] += 1
            answers.append(counts[key])
        if keeps_state:
            await asyncio.gather(*(bucket.put(key, str(counts[key]).encode()) for key in set(keys)))
        for message, answer in zip(batch, answers, strict=True):
            reply = (message.headers or {}).get("Answer-To")
            if reply:
                await connection.publish(reply, str(answer).encode())
            hop = (message.headers or {}).get("Hop")
            if hop:
                await stream.publish_async(hop, b"{}")
        if any((message.headers or {}).get("Hop") for message in batch):
            await stream.publish_async_completed()
        for message in batch:
            await message.ack()
        handled += len(batch)


# -- load


def latencies(taken):
    ordered = sorted(taken)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e6  # noqa: E731
    return {"p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1.0)}


class Load:
    def __init__(self, connection, workers, pids):
        self.pids = pids
        self.connection = connection
        self.stream = connection.jetstream(publish_async_max_pending=4000)
        self.workers = workers

    def subject(self, key):
        return f"hand.{partition(key, self.workers)}.{key}"

    async def handled(self):
        answers = [await self.connection.request(f"stats.{n}", b"", timeout=10) for n in range(self.workers)]
        return sum(int(answer.data) for answer in answers)

    async def timed(self, in_flight, seconds, act):
        taken = []
        now = time.perf_counter
        cost = Cost(self.pids)
        started, number = now(), 0
        end = started + seconds

        async def client():
            nonlocal number
            while (begun := now()) < end:
                number += 1
                await act(number)
                taken.append(now() - begun)

        await asyncio.gather(*(client() for _ in range(in_flight)))
        return {"per_second": len(taken) / (now() - started), **latencies(taken), **cost.each(len(taken))}

    async def calls(self, in_flight=1, keys=1000, seconds=2.0):
        waiting = {}
        inbox = self.connection.new_inbox()

        async def heard(message):
            future = waiting.pop(message.subject, None)
            if future and not future.done():
                future.set_result(message.data)

        await self.connection.subscribe(f"{inbox}.*", cb=heard)

        async def call(number):
            reply = f"{inbox}.{number}"
            future = waiting[reply] = asyncio.get_running_loop().create_future()
            await self.stream.publish_async(self.subject(f"k{number % keys}"), b"{}", headers={"Answer-To": reply})
            await asyncio.wait_for(future, 60)

        return await self.timed(in_flight, seconds, call)

    async def until(self, expected, started):
        while await self.handled() < expected:
            if time.perf_counter() - started > 120:
                raise SystemExit("messages are missing after two minutes")
            await asyncio.sleep(0.005)

    async def one_way(self, messages, keys=1000, zipf=0.0):
        before = await self.handled()
        chance = random.Random(1)
        if zipf:
            weights = [1 / (rank + 1) ** zipf for rank in range(keys)]
            drawn = chance.choices(range(keys), weights=weights, k=messages)
        else:
            drawn = [n % keys for n in range(messages)]
        subjects = [self.subject(f"k{n}") for n in range(keys)]
        cost = Cost(self.pids)
        started = time.perf_counter()
        for key in drawn:
            await self.stream.publish_async(subjects[key], b'{"amount":1}', wait_stall=60)
        await self.stream.publish_async_completed()
        stored = time.perf_counter() - started
        await self.until(before + messages, started)
        seconds = time.perf_counter() - started
        return {"per_second": messages / seconds, "stored_per_second": messages / stored, **cost.each(messages)}

    async def relayed(self, messages, keys=200):
        before = await self.handled()
        cost = Cost(self.pids)
        started = time.perf_counter()
        for number in range(messages):
            hop = self.subject(f"k{number % keys}")
            await self.stream.publish_async(
                self.subject(f"r{number % keys}"), b"{}", headers={"Hop": hop}, wait_stall=60
            )
        await self.stream.publish_async_completed()
        await self.until(before + 2 * messages, started)
        return {"per_second": messages / (time.perf_counter() - started), **cost.each(messages)}

    async def publish_ack(self, seconds=2.0, in_flight=1):
        """The ceiling: a publish, stored, nothing else."""
        return await self.timed(in_flight, seconds, lambda n: self.stream.publish("raw.k", b'{"amount":1}'))

    async def publish_pipelined(self, messages):
        cost = Cost(self.pids)
        started = time.perf_counter()
        for _ in range(messages):
            await self.stream.publish_async("raw.k", b'{"amount":1}', wait_stall=60)
        await self.stream.publish_async_completed()
        return {"per_second": messages / (time.perf_counter() - started), **cost.each(messages)}

    async def request_reply(self, seconds=2.0, in_flight=1):
        """The ceiling of a query: another process answers at once, nothing is stored."""
        return await self.timed(in_flight, seconds, lambda n: self.connection.request("echo", b"{}", timeout=10))


async def echo(given):
    connection = await nats.connect(given["url"])

    async def answer(message):
        await message.respond(b"{}")

    await connection.subscribe("echo", cb=answer)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def drive(given):
    url, workload, workers = given.pop("url"), given.pop("workload"), given.pop("workers", 2)
    pids = given.pop("pids")
    connection = await nats.connect(url)
    try:
        print(json.dumps(await getattr(Load(connection, workers, pids), workload)(**given)))
    finally:
        await connection.close()


async def provision(given):
    """Streams and bucket, made anew."""
    connection = await nats.connect(given["url"])
    stream = connection.jetstream()
    for name in ("hand", "raw"):
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await stream.delete_stream(name)
        await stream.add_stream(name=name, subjects=[f"{name}.>"])
    with contextlib.suppress(nats.js.errors.NotFoundError):
        await stream.delete_key_value("hand")
    await stream.create_key_value(bucket="hand")
    await connection.close()
    print("{}")


if __name__ == "__main__":
    act = {"worker": worker, "drive": drive, "echo": echo, "provision": provision}[sys.argv[1]]
    uvloop.run(act(json.loads(sys.argv[2])))
