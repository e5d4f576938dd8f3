"""Processes that belong to one folder: started with a log and a pid file, ended by pid and by nothing else."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hack.cluster.errors import NotReady

PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if hasattr(os, "pidfd_open") else None  # Linux only


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent() -> None:
    """Run in a child between fork and exec: SIGKILL it when the thread that started it ends."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def started_at(pid: int) -> str:
    """Return a start time that, with the pid, names one process for good; empty when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


class Processes:
    """The processes of a folder.

    tied: they end when this process does, whatever ends it; else they outlive it, until `stop`.
    """

    def __init__(self, folder: Path, *, tied: bool = False) -> None:
        self.folder = folder
        self._tied = tied
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def spawn(
        self, name: str, argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> int:
        """Start argv in a session of its own, logging to NAME.log; return its pid."""
        how = {"argv": list(argv), "cwd": str(cwd or self.folder), "env": dict(env or {})}
        (self.folder / f"{name}.json").write_text(json.dumps(how))
        return self.start(name)

    def start(self, name: str) -> int:
        """Start what was spawned under this name before, in the same way. Raises NotReady when it runs or never did."""
        if name in self.alive():
            raise NotReady(f"{name} runs already")
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise NotReady(f"{name} was never started in {self.folder}")
        how = json.loads(path.read_text())
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                how["argv"],
                cwd=how["cwd"],
                env={**os.environ, **how["env"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent if self._tied else None,  # noqa: PLW1509 - no other way to be tied
            )
        self._children[child.pid] = child  # kept, so that it can be reaped
        (self.folder / f"{name}.pid").write_text(f"{child.pid} {started_at(child.pid)}")
        return child.pid

    def alive(self) -> dict[str, int]:
        """Return names to pids of those that run, in the order in which they were first started."""
        found = {}
        for path in sorted(self.folder.glob("*.pid"), key=lambda path: path.with_suffix(".json").stat().st_mtime_ns):
            pid, start = (*path.read_text().split(), "")[:2]
            if start and started_at(int(pid)) == start:
                found[path.stem] = int(pid)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL one of them, as a crash would, and wait until it is gone. Raises NotReady when it does not run."""
        alive = self.alive()
        if name not in alive:
            raise NotReady(f"{name} does not run; there are: {', '.join(alive) or 'none'}")
        os.kill(alive[name], signal.SIGKILL)
        self._gone(alive[name], 5.0)

    def stop(self, grace: float = 10.0) -> None:
        """End all, clients before servers: SIGTERM, `grace` seconds, SIGKILL."""
        for name, pid in reversed(self.alive().items()):
            for sent, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
                try:
                    os.kill(pid, sent)
                except ProcessLookupError:
                    break
                if self._gone(pid, patience):
                    break
            (self.folder / f"{name}.pid").unlink(missing_ok=True)
        for child in self._children.values():
            child.wait(5.0)
        self._children.clear()

    def tail(self, name: str, lines: int = 8) -> str:
        """Return the last lines of its log."""
        try:
            text = (self.folder / f"{name}.log").read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def require(self, *names: str) -> None:
        """Raise NotReady with the log of the first of these that does not run."""
        alive = self.alive()
        for name in names:
            if name not in alive:
                raise NotReady(f"{name} has ended:\n{self.tail(name)}")

    def usage(self) -> str:
        """Return one line per process: pid, resident memory, CPU seconds."""
        rows, ticks = [], os.sysconf("SC_CLK_TCK")
        for name, pid in self.alive().items():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
            seconds = (int(fields[11]) + int(fields[12])) / ticks
            rows.append(f"{name:26} pid {pid:<7} rss {resident:6.1f} MiB  cpu {seconds:6.2f} s")
        return "\n".join(rows)

    def _gone(self, pid: int, patience: float) -> bool:
        end = time.monotonic() + patience
        while started_at(pid):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        if child := self._children.pop(pid, None):
            child.wait(5.0)
        return True
