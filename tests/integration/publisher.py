"""`python -m tests.integration.publisher URL MESH COUNT BYTES`: publishes as fast as it may, each message on its own.

Prints "refused" when a sender that does not wait is refused, and the number of stored messages at the end.
"""

from __future__ import annotations

import asyncio
import sys
import time

from starling import AgentId, Mesh
from starling.client import connect
from starling.errors import MailboxFull

from tests.integration.probes import Heavy

IN_FLIGHT = 16


async def main(url: str, mesh: str, count: int, size_bytes: int) -> None:
    numbers = iter(range(1, count + 1))
    body = "x" * size_bytes
    refused = False

    async def send(client: Mesh) -> None:
        nonlocal refused
        for number in numbers:
            target, heavy = AgentId("scale", f"k{number % IN_FLIGHT}"), Heavy(number, body)
            try:
                await client.send(target, heavy, id=str(number))
            except MailboxFull:
                if not refused:
                    refused = True
                    print("refused", flush=True)
                await client.send(target, heavy, id=str(number), when_full="wait", timeout=120)

    started = time.monotonic()
    async with connect(url, mesh=mesh, name="publisher") as client:
        print("connected", flush=True)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(send(client))
    print(f"stored {count} in {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
