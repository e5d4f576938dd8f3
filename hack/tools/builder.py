"""Build the pinned programs, once a machine.

    hack/tools/build                   build what is missing, with a progress line now and then
    hack/tools/build --background      the same, detached: returns at once, logs to build.log in the cache
    hack/tools/build --wait [SECONDS]  wait for a build that is running (default 900 seconds)
    hack/tools/build --where           print the folder

Exit code 0: all programs are there (with --background: or are being built, or Go is missing, which it says).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from hack.tools.programs import HERE, PROGRAMS, ROOT, Program, find, folder, link_flags

BUILD_BOUND = 3600.0
HEARTBEAT = 30.0


class Lock:
    """The right to build into one folder; it ends with the process that holds its file open."""

    def __init__(self, place: Path, inherited: int | None = None) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.fd = os.open(place / ".lock", os.O_RDWR | os.O_CREAT, 0o644) if inherited is None else inherited

    def taken(self, seconds: float = 0.0) -> bool:
        """Take the lock, waiting at most `seconds` for whoever holds it; False when it is still held then."""
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.2)
            else:
                return True

    def close(self) -> None:
        """Let go of it, unless a child has inherited it."""
        os.close(self.fd)


def absent(place: Path) -> list[Program]:
    """Return the programs that are not built yet, in building order."""
    return [program for program in PROGRAMS if not os.access(place / program.name, os.X_OK)]


def is_building(place: Path) -> bool:
    """Return whether some process is building into this folder."""
    if not place.is_dir():
        return False
    lock = Lock(place)
    try:
        return not lock.taken()
    finally:
        lock.close()


def wait_for(names: Iterable[str], seconds: float, *, place: Path | None = None) -> bool:
    """Wait until these programs are found, for as long as a build is running; return whether they are there."""
    place, names = place or folder(), tuple(names)
    end = time.monotonic() + seconds
    while True:
        running = is_building(place)
        if all(find(name) for name in names):
            return True
        if not running or time.monotonic() >= end:
            return False
        time.sleep(0.5)


def say(started: float, text: str) -> None:
    """Print one progress line with the seconds since `started`."""
    print(f"[{time.monotonic() - started:4.0f} s] {text}", flush=True)


def build(place: Path, inherited: int | None) -> int:
    """Build what is missing; another build into the same folder is waited for."""
    started = time.monotonic()
    if not absent(place):
        say(started, f"all {len(PROGRAMS)} programs are in {place}")
        return 0
    if shutil.which("go") is None:
        print("hack/tools/build: Go is not installed; tests that need a cluster are skipped", file=sys.stderr)
        return 1
    lock = Lock(place, inherited)
    try:
        if not lock.taken():
            say(started, f"another build is writing to {place}: waiting for it")
            if not lock.taken(BUILD_BOUND):
                say(started, "gave up waiting for it")
                return 1
        for leftover in place.glob(".*.tmp"):  # of a build that was killed; we hold the lock
            leftover.unlink()
        os.nice(10)
        failed = [program.name for program in absent(place) if not build_one(program, place, started)]
        return 1 if failed else 0
    finally:
        lock.close()


def build_one(program: Program, place: Path, started: float) -> bool:
    """Build one program under another name and rename it, so that what is there is always whole."""
    began, temporary = time.monotonic(), place / f".{program.name}.tmp"
    command = ["go", "build", "-trimpath", "-ldflags", link_flags(program), "-o", str(temporary), program.package]
    say(started, f"{program.name}: building")
    process = subprocess.Popen(command, cwd=HERE / program.module, env={**os.environ, "CGO_ENABLED": "0"})
    code = followed(process, program.name, started)
    if code:
        temporary.unlink(missing_ok=True)
        say(started, f"{program.name}: go build ended with exit code {code}")
        return False
    temporary.rename(place / program.name)
    size = (place / program.name).stat().st_size
    say(started, f"{program.name}: built in {time.monotonic() - began:.0f} s, {size} bytes")
    return True


def followed(process: subprocess.Popen[bytes], name: str, started: float) -> int:
    """Return the exit code, with a line every half minute; a build longer than the bound is killed."""
    began = time.monotonic()
    try:
        while True:
            try:
                return process.wait(HEARTBEAT)
            except subprocess.TimeoutExpired:
                say(started, f"{name}: still building after {time.monotonic() - began:.0f} s")
                if time.monotonic() - began > BUILD_BOUND:
                    return 1
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def build_in_background(place: Path) -> int:
    """Start a detached build that inherits the lock, so that a wait right after this call sees it running."""
    if not absent(place):
        print(f"the cluster's programs are in {place}")
    elif shutil.which("go") is None:
        print("Go is not installed: no cluster's programs are built, tests that need them are skipped")
    else:
        lock = Lock(place)
        if lock.taken():
            command = [sys.executable, "-m", "hack.tools.builder", "--lock", str(lock.fd)]
            with (place / "build.log").open("wb") as log:
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, "STARLING_TOOLS": str(place)},
                    pass_fds=[lock.fd],
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        lock.close()
        print(f"building the cluster's programs in the background: {place / 'build.log'}")
    return 0


def wait(place: Path, seconds: float) -> int:
    """Show the log of a running build until it ends or `seconds` have passed."""
    started, shown = time.monotonic(), 0
    log = place / "build.log"
    if not absent(place):
        print(f"the cluster's programs are in {place}")
        return 0
    while True:
        running = is_building(place)
        text = log.read_text(errors="replace") if log.exists() else ""
        print(text[shown:], end="", flush=True)
        shown = len(text)
        if not absent(place):
            print(f"the cluster's programs are in {place}")
            return 0
        names = ", ".join(program.name for program in absent(place))
        if not running:
            print(f"no build is running and these are missing in {place}: {names}", file=sys.stderr)
            return 1
        if time.monotonic() - started > seconds:
            print(f"still building after {seconds:.0f} s: {names}", file=sys.stderr)
            return 1
        time.sleep(0.5)


def main() -> int:
    """Read the command line and do it."""
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="hack/tools/build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--background", action="store_true", help="build detached and return at once")
    what.add_argument("--wait", nargs="?", type=float, const=900.0, metavar="SECONDS", help="wait for a running build")
    what.add_argument("--where", action="store_true", help="print the folder of the built programs")
    parser.add_argument("--lock", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    place = folder()
    if given.where:
        print(place)
        return 0
    if given.background:
        return build_in_background(place)
    if given.wait is not None:
        return wait(place, given.wait)
    return build(place, given.lock)


if __name__ == "__main__":
    sys.exit(main())
