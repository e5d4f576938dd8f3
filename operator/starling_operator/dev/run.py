"""Runs a mesh on this machine until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from starling.adapters.nats import EmbeddedServer, connect
from starling.core.membership import Member
from starling.errors import MeshError, SpecError, Unreachable
from starling.provision import provision_mesh

from starling_operator.adapters.local import LocalPods
from starling_operator.adapters.mesh import MeshState
from starling_operator.adapters.scrape import ScrapeLoads
from starling_operator.api import AgentPool
from starling_operator.control import Control, PoolReport
from starling_operator.dev.manifests import Manifests, read, stamp

log = logging.getLogger(__name__)

MESH: Final = "dev"
LOOK: Final = 0.5


@dataclass(frozen=True, slots=True)
class DevOptions:
    """folder: of the manifests; data: where everything is kept, None for a folder that is thrown away;
    port: of NATS, 0 for a free one; status: a file that says every second what is going on, as JSON."""

    folder: Path
    data: Path | None
    port: int = 0
    status: Path | None = None


class View(Protocol):
    """Shows people what is going on."""

    def started(self, url: str, seconds: float) -> None: ...

    def show(self, reports: dict[str, PoolReport]) -> None: ...

    def say(self, text: str) -> None: ...


class Dev:
    """The mesh of one `starling dev`."""

    def __init__(self, options: DevOptions, view: View) -> None:
        self._options = options
        self._view = view
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._manifests = Manifests()
        self._stamp: tuple[tuple[str, int], ...] = ()
        self._reports: dict[str, PoolReport] = {}
        self._said: dict[tuple[str, str], str] = {}
        self._routed: object = None

    def stop(self) -> None:
        """Ask for a clean end."""
        self._stop.set()

    async def run(self) -> None:
        """Run until stopped. Raises SpecError for manifests that are wrong at the start, Unreachable."""
        started = time.monotonic()
        self._stamp = stamp(self._options.folder)
        self._manifests = read(self._options.folder)
        self._begin_status()
        directory = self._options.data or Path(tempfile.mkdtemp(prefix="starling-"))
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError("--data", f"{directory} cannot be made: {error.strerror}; give another folder") from error
        try:
            await self._with_server(directory, started)
        finally:
            if self._options.data is None:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _with_server(self, directory: Path, started: float) -> None:
        server = EmbeddedServer(directory / "nats", port=self._options.port)
        await self._start(server)
        try:
            store = await connect(server.url, name="starling dev")
            pods = LocalPods(directory, nats_url=server.url, mesh=MESH, say=self._view.say)
            try:
                await provision_mesh(store, MESH)
                chance = random.Random()
                mesh = MeshState(store, MESH, chance=chance, on_change=lambda pool: self._wake.set())
                loads = ScrapeLoads(lambda: self._members(mesh))
                control = Control(mesh, pods, loads)
                async with asyncio.TaskGroup() as tasks:
                    jobs = [
                        tasks.create_task(mesh.watch(), name="members"),
                        tasks.create_task(mesh.ask(), name="signs of life"),
                        tasks.create_task(loads.run(), name="loads"),
                    ]
                    await self._loop(control, pods, server.url, started)
                    for job in jobs:
                        job.cancel()
            finally:
                self._view.say("stopping")
                await pods.close()
                await store.close()
        finally:
            await server.stop()

    async def _start(self, server: EmbeddedServer) -> None:
        try:
            await server.start()
        except Unreachable as error:
            if "address already in use" not in str(error):
                raise
            raise Unreachable(
                f"--port: {self._options.port} is taken by another program; give another one, such as 4333, "
                "and the other commands its address: --nats nats://127.0.0.1:4333"
            ) from error

    def _members(self, mesh: MeshState) -> Iterator[tuple[str, Member]]:
        for pool in self._manifests.pools:
            for pod in mesh.pods_of(pool):
                if (member := mesh.member(pool, pod)) is not None:
                    yield pool, member

    async def _loop(self, control: Control, pods: LocalPods, url: str, started: float) -> None:
        announced = False
        while not self._stop.is_set():
            self._wake.clear()
            pods.changed.clear()
            self._reread(control)
            await self._look(control, pods)
            self._view.show(self._reports)
            if not announced and self._is_ready():
                announced = True
                self._view.started(url, time.monotonic() - started)
            self._write_status(control, pods, url, ready=announced)
            await self._wait(pods)

    async def _wait(self, pods: LocalPods) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._wake, pods.changed, self._stop)]
        _, pending = await asyncio.wait(waits, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        await asyncio.sleep(0.05)  # what comes together is looked at together

    def _is_ready(self) -> bool:
        return all(
            name in self._reports and self._reports[name].shards_owned == pool.spec.shards
            for name, pool in self._manifests.pools.items()
        )

    def _reread(self, control: Control) -> None:
        with suppress(FileNotFoundError):
            now = stamp(self._options.folder)
            if now == self._stamp:
                return
            self._stamp = now
            try:
                self._manifests = read(self._options.folder, self._manifests)
                self._view.say("manifests read again")
            except SpecError as error:
                self._view.say(f"manifests are wrong, the last good ones stay: {error}")

    async def _look(self, control: Control, pods: LocalPods) -> None:
        manifests = self._manifests
        for name in [name for name in self._reports if name not in manifests.pools]:
            await pods.remove(name)
            del self._reports[name]
            self._routed = None
        try:
            if self._routed is not manifests:
                said = await control.route(list(manifests.pools.values()), list(manifests.subscriptions.values()))
                for key, condition in said.items():
                    if not condition.status or condition.reason == "TypeTaken":
                        self._once(key, f"{key[0]} {key[1]}: {condition.reason}: {condition.message}")
                for text in manifests.loose_ends():
                    self._view.say(text)
                self._routed = manifests
        except (MeshError, OSError) as error:
            self._once(("routes", ""), f"{type(error).__name__}: {error}")
        for name, pool in manifests.pools.items():
            await self._look_at(control, name, pool)

    async def _look_at(self, control: Control, name: str, pool: AgentPool) -> None:
        """One pool; what is wrong with it holds up no other."""
        try:
            report = await control.look(pool, self._manifests.targets.get(name), self._manifests.code_of(pool))
        except SpecError as error:
            self._once(("pool", name), f"{name}: {error}")
        except (MeshError, OSError) as error:
            self._once(("pool", name), f"{name}: {type(error).__name__}: {error}")
        else:
            self._said.pop(("pool", name), None)
            for event in report.events:
                self._view.say(f"{name}: {event.reason}: {event}")
            self._reports[name] = report

    def _once(self, key: tuple[str, str], text: str) -> None:
        if self._said.get(key) != text:
            self._said[key] = text
            self._view.say(text)

    def _begin_status(self) -> None:
        """See that there can be a file. Raises SpecError."""
        if (file := self._options.status) is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".part").write_text("")
        except OSError as error:
            raise SpecError("--status", f"{file} cannot be written: {error.strerror}; give another file") from error

    def _write_status(self, control: Control, pods: LocalPods, url: str, *, ready: bool) -> None:
        if self._options.status is None:
            return
        value: dict[str, Any] = {
            "nats": url,
            "mesh": MESH,
            "pid": os.getpid(),
            "ready": ready,
            "moves": [[pool, str(move)] for _, pool, move in control.moves],
            "scaleUps": [[pool, replicas] for _, pool, replicas in control.scale_ups],
            "pools": {
                name: {
                    "replicas": report.replicas,
                    "ready": report.ready,
                    "shards": report.shards,
                    "owners": {str(shard): pod for shard, pod in report.owners.items()},
                    "lag": report.lag,
                    "processes": pods.processes_of(name),
                }
                for name, report in self._reports.items()
            },
        }
        file = self._options.status
        part = file.with_suffix(".part")
        part.write_text(json.dumps(value))
        part.replace(file)


async def dev(options: DevOptions, view: View) -> None:
    """Run `starling dev` until Ctrl-C or SIGTERM."""
    made = Dev(options, view)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, made.stop)
    await made.run()
