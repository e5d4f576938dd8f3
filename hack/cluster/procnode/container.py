"""One container: its process over all its restarts, and what its status says."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from hack.cluster.api import Json
from hack.cluster.errors import KitError
from hack.cluster.processes import die_with_parent
from hack.cluster.procnode.probes import Answers, Kind, Target, ask, run

RETRY_SECONDS = 1.0  # after something the manifest refers to was not there
LONGEST_BACKOFF = 300.0
STEADY_SECONDS = 600.0  # a container that ran this long starts without back-off again
START_ERROR = 128


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run: mount paths and variables are already replaced."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path


class Home(Protocol):
    """What a container asks of its pod."""

    folder: Path
    ip: str
    ending: bool

    @property
    def policy(self) -> str: ...

    @property
    def grace(self) -> float: ...

    @property
    def backoff(self) -> float: ...

    async def launch(self, container: Json) -> Launch: ...

    def changed(self) -> None: ...


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """Runs one container of a pod.

    init: it runs before the others and is not started again once it has succeeded; restarts: how many there were
    before, when a node takes its pods back.
    """

    def __init__(self, home: Home, spec: Json, *, init: bool = False, restarts: int = 0) -> None:
        self.spec = spec
        self.ready = self.started = False
        self._home, self._init, self._restarts = home, init, restarts
        self._process: asyncio.subprocess.Process | None = None
        self._launch: Launch | None = None
        self._since = now()
        self._state: Json = {"waiting": {"reason": "ContainerCreating"}}
        self._last: Json = {}

    @property
    def log_path(self) -> Path:
        """Where its output goes, over all restarts."""
        return self._home.folder / f"{self.spec['name']}.log"

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.returncode is None

    @property
    def succeeded(self) -> bool:
        """Whether it ended with exit code 0."""
        return bool(self._state.get("terminated", {}).get("exitCode") == 0)

    def status(self) -> Json:
        """Return its entry of the pod's status; the container id is ``process://`` and the process id."""
        status = {
            "name": self.spec["name"],
            "image": self.spec.get("image", ""),
            "imageID": "process",
            "containerID": f"process://{self._process.pid if self._process else 0}",
            "ready": self.succeeded if self._init else self.ready,
            "started": self.started,
            "restartCount": self._restarts,
            "state": self._state,
        }
        return status | ({"lastState": self._last} if self._last else {})

    async def run(self) -> int:
        """Start it, and again as the pod's policy says; return the exit code when it is done for good."""
        delay = 0.0
        while True:
            began = time.monotonic()
            code = await self._live()
            if code is None:  # not started: what it needs is not there yet
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self._is_done(code):
                return code
            self._last = self._state
            delay = 0.0 if time.monotonic() - began > STEADY_SECONDS else delay
            if delay:
                self._wait("CrashLoopBackOff", f"back-off {delay:g}s")
                await asyncio.sleep(delay)
            delay = min(LONGEST_BACKOFF, delay * 2 or self._home.backoff)
            self._restarts += 1

    async def stop(self, grace: float) -> None:
        """preStop, SIGTERM, SIGKILL after `grace` seconds in all."""
        end = time.monotonic() + grace
        process = self._process
        if process is None or process.returncode is not None:
            return
        await self._before_stop(grace)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                await process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process and what that has started."""
        if self.is_running:
            self._signal_group(number)

    async def _live(self) -> int | None:
        """Run the process once; return its exit code, None when it could not be prepared."""
        if self._home.ending:
            return 0
        try:
            self._launch = await self._home.launch(self.spec)
        except KitError as error:
            self._wait("CreateContainerConfigError", str(error))
            return None
        try:
            self._process = await self._start(self._launch)
        except OSError as error:
            with self.log_path.open("a") as log:
                log.write(f"{error}\n")
            self._end(START_ERROR, "StartError")
            return START_ERROR
        code = await self._watch(self._process)
        self._signal_group(signal.SIGKILL)  # what the process left in its group
        code = 128 - code if code < 0 else code
        self._end(code, "Error" if code else "Completed")
        return code

    async def _start(self, launch: Launch) -> asyncio.subprocess.Process:
        with self.log_path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *launch.argv,
                env=launch.env,
                cwd=launch.cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    async def _watch(self, process: asyncio.subprocess.Process) -> int:
        self._since = now()
        self._state = {"running": {"startedAt": self._since}}
        self.started = Kind.STARTUP.value not in self.spec
        self.ready = self.started and not self._init and Kind.READINESS.value not in self.spec
        self._home.changed()
        async with asyncio.TaskGroup() as tasks:
            kinds = [kind for kind in Kind if kind.value in self.spec]
            probing = [tasks.create_task(self._probe(kind), name=f"{self.spec['name']} {kind.value}") for kind in kinds]
            code = await process.wait()
            for task in probing:
                task.cancel()
        return code

    async def _probe(self, kind: Kind) -> None:
        spec = self.spec[kind.value]
        answers = Answers(spec)
        await asyncio.sleep(spec.get("initialDelaySeconds", 0))
        while not (kind is Kind.STARTUP and self.started):
            if kind is Kind.STARTUP or self.started:
                verdict = answers.heard(await ask(spec, self._target()))
                await self._judge(kind, verdict)
            eager = kind is not Kind.LIVENESS and not self.ready
            await asyncio.sleep(answers.pause(eager=eager))

    async def _judge(self, kind: Kind, verdict: bool | None) -> None:
        before = self.ready, self.started
        if kind is Kind.READINESS and verdict is not None:
            self.ready = verdict
        elif kind is Kind.STARTUP and verdict:
            self.started, self.ready = True, Kind.READINESS.value not in self.spec
        elif verdict is False:
            await self.stop(self._home.grace)
        if before != (self.ready, self.started):
            self._home.changed()

    def _target(self) -> Target:
        assert self._launch is not None  # it is running
        return Target(self.spec, self._home.ip, self._launch.env, self._home.folder)

    async def _before_stop(self, grace: float) -> None:
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        try:
            async with asyncio.timeout(grace):
                if "exec" in hook:
                    await run(hook["exec"]["command"], self._target())
                elif "sleep" in hook:
                    await asyncio.sleep(hook["sleep"]["seconds"])
        except (OSError, TimeoutError):
            return  # a hook that fails does not stop the end

    def _is_done(self, code: int) -> bool:
        policy = self._home.policy
        again = (policy == "Always" and not self._init) or (policy != "Never" and code != 0)
        return self._home.ending or not again

    def _end(self, code: int, reason: str) -> None:
        self.ready = self.started = False
        ended: Json = {"exitCode": code, "reason": reason, "startedAt": self._since, "finishedAt": now()}
        if code > 128:
            ended["signal"] = code - 128
        self._state = {"terminated": ended}
        self._home.changed()

    def _wait(self, reason: str, message: str) -> None:
        self._state = {"waiting": {"reason": reason, "message": message}}
        self._home.changed()

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return  # all of it has ended
