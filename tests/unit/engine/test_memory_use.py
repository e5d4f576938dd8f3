"""How much memory is in use, as the system's files say it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from starling.engine.memory_use import give_back, memory_use

MACHINE = {"proc/meminfo": "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n"}
V2 = {
    "proc/self/cgroup": "0::/kubepods/pod1/c\n",
    "sys/fs/cgroup/kubepods/pod1/c/memory.max": "1000\n",
    "sys/fs/cgroup/kubepods/pod1/c/memory.current": "900\n",
    "sys/fs/cgroup/kubepods/pod1/c/memory.stat": "anon 650\ninactive_file 200\n",
}
V1 = {
    "proc/self/cgroup": "12:cpu,cpuacct:/a\n5:memory:/pod1\n",
    "sys/fs/cgroup/memory/pod1/memory.limit_in_bytes": "1000\n",
    "sys/fs/cgroup/memory/pod1/memory.usage_in_bytes": "900\n",
    "sys/fs/cgroup/memory/pod1/memory.stat": "total_inactive_file 400\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (V2 | MACHINE, 0.7),
        (V1 | MACHINE, 0.5),
        (MACHINE, 0.6),
        ({}, None),
        (V2 | MACHINE | {"sys/fs/cgroup/kubepods/pod1/c/memory.max": "max\n"}, 0.6),
        (V1 | MACHINE | {"sys/fs/cgroup/memory/pod1/memory.limit_in_bytes": "9223372036854771712\n"}, 0.6),
        (
            {"sys/fs/cgroup/memory.max": "1000", "sys/fs/cgroup/memory.current": "250"} | MACHINE,
            0.25,
        ),
    ],
    ids=["v2", "v1", "machine", "nothing", "v2-without-a-limit", "v1-without-a-limit", "inside-a-container"],
)
def test_the_group_with_a_limit_counts_else_the_machine(
    tmp_path: Path, files: Mapping[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_use(tmp_path) == (None if expected is None else pytest.approx(expected))


def test_this_machine_says_something_and_takes_memory_back() -> None:
    share = memory_use()
    assert share is not None
    assert 0 < share < 1
    give_back()
