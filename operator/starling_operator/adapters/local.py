"""Pods as local processes: what `starling dev` runs workers on. Dead ones are started again as a kubelet would."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starling_operator.adapters.spare import Spare, die_with_parent
from starling_operator.ports import PodSeen, PoolPods, PoolPodsSpec

log = logging.getLogger(__name__)

BACKOFF_CAP: Final = 10.0
STABLE_AFTER: Final = 30.0
GRACE: Final = 15.0
LAST_LINE: Final = 500


@dataclass(slots=True)
class _Pod:
    """One pod: the task that keeps its process alive, and that process."""

    name: str
    ordinal: int
    spec: PoolPodsSpec
    task: asyncio.Task[None] | None = None
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    log_from: int = 0
    """Where the log of the present process begins in its file, in bytes."""
    terminating: bool = False
    ending: signal.Signals = signal.SIGTERM


def _log(text: str) -> None:
    log.warning("%s", text)


class LocalPods:
    """Runs the pods of all pools as child processes. directory: for their configuration and logs.

    extra: further environment of a pod by its name, asked at each start of its process. say: told of each process
    that ended by itself, in words for people.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nats_url: str,
        mesh: str,
        extra: Callable[[str], Mapping[str, str]] = lambda pod: {},
        say: Callable[[str], None] = _log,
    ) -> None:
        self._directory = directory
        self._say = say
        self._extra = extra
        self._nats_url = nats_url
        self._mesh = mesh
        self._pods: dict[str, dict[int, _Pod]] = {}
        self._specs: dict[str, PoolPodsSpec] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._spare = Spare()
        self.changed = asyncio.Event()
        """Set whenever a process has ended or was started."""

    async def observe(self, pool: str) -> PoolPods | None:
        """Return the pool's pods as they are; None when it was never applied."""
        spec = self._specs.get(pool)
        if spec is None:
            return None
        pods = tuple(
            PodSeen(
                name=pod.name,
                ordinal=ordinal,
                phase=_phase(pod),
                version=pod.spec.version,
                restarts=pod.restarts,
                process=pod.process.pid if pod.process and pod.process.returncode is None else None,
            )
            for ordinal, pod in sorted(self._pods.get(pool, {}).items())
        )
        return PoolPods(pods=pods, replicas=spec.replicas, version=spec.version, resource_version="")

    async def apply(self, spec: PoolPodsSpec) -> None:
        """Make the pool's pods what `spec` says: missing ones start, those above the count end with grace."""
        self._specs[spec.pool] = spec
        folder = self._folder(spec)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "pool.json", json.dumps(spec.config))
        code = folder / "code"
        code.mkdir(exist_ok=True)
        for name, text in spec.code.items():
            _write(code / name, text)
        running = self._pods.setdefault(spec.pool, {})
        for ordinal in range(spec.replicas):
            if ordinal not in running:
                self._start(running, ordinal, spec)
            elif running[ordinal].spec.version == spec.version:
                running[ordinal].spec = spec
        for ordinal in [o for o in running if o >= spec.replicas]:
            self._end(running, ordinal)

    async def replace(self, pool: str, ordinal: int) -> None:
        """End a pod of an older version; it comes back with the present one, and not before the old one is gone.

        The only pod of a pool releases its shards at once: there is nobody for whom its draining could wait.
        """
        running = self._pods.get(pool, {})
        pod = running.get(ordinal)
        if pod is not None and not pod.terminating:
            if len(running) == 1:
                pod.ending = signal.SIGINT
            await asyncio.wait([self._end(running, ordinal)])  # which kills it after its drain and grace time
            self._start(running, ordinal, self._specs[pool])

    async def remove(self, pool: str) -> None:
        """End all pods of a pool."""
        self._specs.pop(pool, None)
        running = self._pods.pop(pool, {})
        tasks = [self._end(running, ordinal) for ordinal in list(running)]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE + 5)

    async def close(self) -> None:
        """End everything at once: SIGINT, on which workers release their shards, then SIGKILL after the grace time."""
        await self._spare.close()
        for pod in (pod for running in self._pods.values() for pod in running.values()):
            pod.ending = signal.SIGINT
        await asyncio.gather(*(self.remove(pool) for pool in list(self._pods)))
        if self._closing:
            await asyncio.wait(self._closing, timeout=GRACE + 5)

    @property
    def has_spare(self) -> bool:
        """Whether a process waits to take the place of one that dies."""
        return self._spare.is_ready

    def process_of(self, pod: str) -> int | None:
        """Return the process id of a pod, None while none runs."""
        for running in self._pods.values():
            for entry in running.values():
                if entry.name == pod and entry.process is not None and entry.process.returncode is None:
                    return entry.process.pid
        return None

    def processes_of(self, pool: str) -> dict[str, int]:
        """Return the process ids of a pool's pods that run."""
        running = self._pods.get(pool, {}).values()
        return {pod.name: pid for pod in running if (pid := self.process_of(pod.name)) is not None}

    # -- one pod

    def _start(self, running: dict[int, _Pod], ordinal: int, spec: PoolPodsSpec) -> None:
        pod = running[ordinal] = _Pod(f"{spec.pool}-{ordinal}", ordinal, spec)
        pod.task = asyncio.get_running_loop().create_task(self._keep(pod), name=f"pod {pod.name}")

    def _end(self, running: dict[int, _Pod], ordinal: int) -> asyncio.Task[None]:
        pod = running.pop(ordinal)
        pod.terminating = True
        task = asyncio.get_running_loop().create_task(self._terminate(pod), name=f"end pod {pod.name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _terminate(self, pod: _Pod) -> None:
        process = pod.process
        grace = pod.spec.drain_seconds + GRACE
        if process is not None and process.returncode is None:
            process.send_signal(pod.ending)
            try:
                async with asyncio.timeout(grace):
                    await process.wait()
            except TimeoutError:
                log.warning("pod did not end in time", extra={"pod": pod.name})
                process.kill()
        if pod.task is not None:
            pod.task.cancel()
            await asyncio.gather(pod.task, return_exceptions=True)
        self.changed.set()

    async def _keep(self, pod: _Pod) -> None:
        """Run the process, again and again: at once after its first death, with a growing pause if it keeps dying."""
        loop = asyncio.get_running_loop()
        pause, deaths = 0.0, 0
        while True:
            started = loop.time()
            await self._run(pod, use_spare=pause == 0.0)  # one that dies as it starts is not to use up spares
            if pod.terminating:
                return
            self.changed.set()
            pod.restarts += 1
            deaths = 1 if loop.time() - started > STABLE_AFTER else deaths + 1
            pause = 0.0 if deaths == 1 else min(0.2 * 2.0 ** min(deaths - 2, 10), BACKOFF_CAP)
            self._say(f"{pod.name} ended{self._why(pod)}; it starts again {f'in {pause:g} s' if pause else 'at once'}")
            await asyncio.sleep(pause)

    async def _run(self, pod: _Pod, *, use_spare: bool) -> None:
        log_file = self._log_of(pod)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        pod.log_from = log_file.stat().st_size if log_file.exists() else 0
        environment = self._environment(pod)
        pod.process = self._spare.take(environment, log_file) if use_spare else None
        if pod.process is None:
            with log_file.open("ab") as out:
                pod.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "starling.node",
                    env=environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        self._spare.keep()
        self.changed.set()
        try:
            await pod.process.wait()
        except asyncio.CancelledError:
            if pod.process.returncode is None:
                pod.process.kill()
                await pod.process.wait()
            raise

    def _why(self, pod: _Pod) -> str:
        """With which code or signal its process ended, and the last line that it wrote if it ended by itself."""
        code = pod.process.returncode if pod.process else None
        if code is None:
            return ""
        if code < 0:
            return f" by {signal.Signals(-code).name}"
        with self._log_of(pod).open("rb") as log_file:
            log_file.seek(pod.log_from)
            lines = log_file.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        return f" with code {code}, its log {self._log_of(pod)} ends with: {last[:LAST_LINE]}"

    def _log_of(self, pod: _Pod) -> Path:
        return self._directory / "logs" / f"{pod.name}.log"

    def _environment(self, pod: _Pod) -> Mapping[str, str]:
        folder = self._folder(pod.spec)
        return {
            **os.environ,
            "STARLING_MESH": self._mesh,
            "STARLING_NATS_URL": self._nats_url,
            "STARLING_POOL": pod.spec.pool,
            "STARLING_POD": pod.name,
            "STARLING_POD_IP": "127.0.0.1",
            "STARLING_HTTP_PORT": "0",
            "STARLING_CONFIG": str(folder / "pool.json"),
            "STARLING_CODE": str(folder / "code"),
            "PYTHONUNBUFFERED": "1",
            **self._extra(pod.name),
        }

    def _folder(self, spec: PoolPodsSpec) -> Path:
        return self._directory / "pools" / spec.pool / spec.version


def _phase(pod: _Pod) -> str:
    if pod.terminating:
        return "terminating"
    if pod.process is None or pod.process.returncode is not None:
        return "starting"
    return "running"


def _write(path: Path, text: str) -> None:
    """Write a file whole: a pod that starts meanwhile reads what was there before, or this."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
