"""FastStream on JetStream: two worker processes with durable subscribers, no state.

`bench.py worker '{…}'` runs one worker; `bench.py drive '{"workload": …}'` prints figures as one JSON line.
Subscribers pull 100 messages a fetch, the form that its documentation recommends and the fastest of those tried (push
with a queue group, and either with 64 concurrent handlers, are slower); messages are typed by a pydantic model.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import nats
import uvloop
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from pydantic import BaseModel

sys.path.append(str(Path(__file__).parents[2]))  # beside the libraries of this environment: only benchmarks/cost.py
from cost import Cost

FAN = 10


class Add(BaseModel):
    amount: int = 1


class Hop(BaseModel):
    key: str


async def worker(given):
    number, workers = given["number"], given["workers"]
    broker = NatsBroker(given["url"], logger=None)
    stream = JStream(name="fast", subjects=["fast.>"], declare=False)
    pull = PullSub(batch_size=100)
    handled = 0

    @broker.subscriber("fast.add.*", stream=stream, durable="adders", pull_sub=pull, ack_policy=AckPolicy.ACK)
    async def add(message: Add) -> None:
        nonlocal handled
        handled += 1

    @broker.subscriber("fast.hop.*", stream=stream, durable="hoppers", pull_sub=pull, ack_policy=AckPolicy.ACK)
    async def hop(message: Hop) -> None:
        nonlocal handled
        await broker.publish(Add(), f"fast.add.{message.key}", stream="fast")
        handled += 1

    for listener in range(number, FAN, workers):

        @broker.subscriber(
            "fast.fan", stream=stream, durable=f"fan-{listener}", pull_sub=pull, ack_policy=AckPolicy.ACK
        )
        async def fan(message: Add) -> None:
            nonlocal handled
            handled += 1

    @broker.subscriber(f"stats.{number}")
    async def stats(_: str) -> int:
        return handled

    app = FastStream(broker, logger=None)

    @app.after_startup
    async def started() -> None:
        print("ready", flush=True)

    await app.run()


class Load:
    def __init__(self, connection, workers, pids):
        self.pids = pids
        self.connection = connection
        self.stream = connection.jetstream(publish_async_max_pending=4000)
        self.workers = workers

    async def handled(self):
        answers = [await self.connection.request(f"stats.{n}", b"x", timeout=10) for n in range(self.workers)]
        return sum(int(answer.data) for answer in answers)

    async def send(self, subjects, body, expected):
        """Publish with nats-py's own pipelined publish, which costs less than FastStream's."""
        before = await self.handled()
        cost = Cost(self.pids)
        started = time.perf_counter()
        headers = {"content-type": "application/json"}
        for subject in subjects:
            await self.stream.publish_async(subject, body(subject), headers=headers, wait_stall=60)
        await self.stream.publish_async_completed()
        while (handled := await self.handled() - before) < expected:
            if time.perf_counter() - started > 120:
                raise SystemExit(f"{expected - handled} messages are missing after two minutes")
            await asyncio.sleep(0.005)
        return {"per_second": expected / (time.perf_counter() - started), **cost.each(expected)}

    async def one_way(self, messages, keys=1000):
        subjects = (f"fast.add.k{n % keys}" for n in range(messages))
        return await self.send(subjects, lambda subject: b'{"amount":1}', messages)

    async def relayed(self, messages, keys=200):
        subjects = (f"fast.hop.r{n % keys}" for n in range(messages))
        figures = await self.send(
            subjects, lambda subject: json.dumps({"key": subject.rpartition(".")[2]}).encode(), 2 * messages
        )
        return {"per_second": figures["per_second"] / 2, "cpu_us": figures["cpu_us"] * 2}

    async def fan_out(self, messages):
        return await self.send(("fast.fan" for _ in range(messages)), lambda subject: b'{"amount":1}', FAN * messages)


async def drive(given):
    url, workload, workers = given.pop("url"), given.pop("workload"), given.pop("workers", 2)
    pids = given.pop("pids")
    connection = await nats.connect(url)
    try:
        print(json.dumps(await getattr(Load(connection, workers, pids), workload)(**given)))
    finally:
        await connection.close()


async def provision(given):
    connection = await nats.connect(given["url"])
    await connection.jetstream().add_stream(name="fast", subjects=["fast.>"])
    await connection.close()
    print("{}")


if __name__ == "__main__":
    act = {"worker": worker, "drive": drive, "provision": provision}[sys.argv[1]]
    uvloop.run(act(json.loads(sys.argv[2])))
