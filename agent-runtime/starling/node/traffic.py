"""Disk and network of a worker, as Linux counts them; nothing where it does not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class Traffic(Collector):
    """Bytes of this process to and from disks, and of its network namespace, which is the pod's."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def collect(self) -> Iterable[Metric]:
        read, written = self._disk()
        received, sent = self._network()
        for name, text, value in (
            ("starling_disk_read_bytes", "Bytes read from disks by this process.", read),
            ("starling_disk_written_bytes", "Bytes written to disks by this process.", written),
            ("starling_network_received_bytes", "Bytes received by this pod, but on loopback.", received),
            ("starling_network_sent_bytes", "Bytes sent by this pod, but on loopback.", sent),
        ):
            if value is not None:
                yield CounterMetricFamily(name, text, value=value)

    def _disk(self) -> tuple[float | None, float | None]:
        try:
            lines = (self._proc / "self" / "io").read_text().splitlines()
        except OSError:
            return None, None
        found = dict(line.split(": ", 1) for line in lines if ": " in line)
        return float(found["read_bytes"]), float(found["write_bytes"])

    def _network(self) -> tuple[float | None, float | None]:
        try:
            lines = (self._proc / "self" / "net" / "dev").read_text().splitlines()[2:]
        except OSError:
            return None, None
        received = sent = 0
        for line in lines:
            device, _, columns = line.partition(":")
            if device.strip() != "lo":
                values = columns.split()
                received += int(values[0])
                sent += int(values[8])
        return received, sent
