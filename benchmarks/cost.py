"""CPU time of processes: the figure that holds on a busy machine too. Standard library only: the peers use it."""

import os
import time

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


class Cost:
    """CPU time of this process and of some others from now on, for each operation."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._start = self._now()

    def _now(self) -> float:
        return time.process_time() + sum(cpu_seconds(pid) for pid in self._pids)

    def each(self, operations: int) -> dict[str, float]:
        """Return the microseconds that each operation took, of all processes together."""
        return {"cpu_us": (self._now() - self._start) / max(1, operations) * 1e6}
