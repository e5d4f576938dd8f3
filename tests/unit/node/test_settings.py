"""A worker's environment and pool.json: what is wrong is named, with its variable or field."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starling.core import limits
from starling.core.retry import Backoff, RetryPolicy
from starling.errors import SpecError
from starling.node.settings import PoolConfig, WorkerSettings

SMALL: dict[str, Any] = {
    "pool": "p",
    "shards": 4,
    "incarnation": "inc12345",
    "agents": [{"type": "a", "entrypoint": "m:A"}],
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STARLING_")]:
        monkeypatch.delenv(name)


def written(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "pool.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_environment_is_read_with_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MESH", "POOL", "POD"):
        monkeypatch.setenv(f"STARLING_{name}", name.lower())
    monkeypatch.setenv("STARLING_SOMETHING_NEWER", "x")
    settings = WorkerSettings.from_environment()
    assert (settings.mesh, settings.pool, settings.pod, settings.http_port) == ("mesh", "pool", "pod", 8080)
    assert (settings.log_level, settings.log_format, settings.fault) == ("INFO", "text", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [("MESH", None), ("HTTP_PORT", "x"), ("HTTP_PORT", "65536"), ("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml")],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    for known in ("MESH", "POOL", "POD"):
        monkeypatch.setenv(f"STARLING_{known}", "x")
    if value is None:
        monkeypatch.delenv(f"STARLING_{name}")
    else:
        monkeypatch.setenv(f"STARLING_{name}", value)
    with pytest.raises(SpecError, match=rf"^STARLING_{name}: "):
        WorkerSettings.from_environment()


def test_a_small_pool_file_has_the_agreed_defaults(tmp_path: Path) -> None:
    config = PoolConfig.read(written(tmp_path, SMALL))
    assert (config.drain_seconds, config.move_wait_seconds) == (limits.DRAIN, limits.MOVE_WAIT)
    assert config.max_concurrent_turns == limits.MAX_CONCURRENT_TURNS
    assert config.delivery.policy() == RetryPolicy()


def test_the_delivery_policy_of_the_pool_is_read(tmp_path: Path) -> None:
    one = {"attempts": 2, "backoff": "linear", "initialSeconds": 0.5, "maxSeconds": 4, "jitter": False}
    config = PoolConfig.read(written(tmp_path, {**SMALL, "delivery": one}))
    assert config.delivery.policy() == RetryPolicy(2, Backoff.LINEAR, 0.5, 4.0, jitter=False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shards": 0}, "shards"),
        ({"shards": 1025}, "shards"),
        ({"agents": []}, "agents"),
        ({"agents": [{"entrypoint": "m:A"}]}, "agents.0.type"),
        ({"delivery": {"attempts": 0}}, "delivery.attempts"),
        ({"delivery": {"backoff": "cubic"}}, "delivery.backoff"),
        ({"delivery": {"initialSeconds": -1}}, "delivery.initialSeconds"),
        ({"drainSeconds": -1}, "drainSeconds"),
        ({"maxConcurrentTurns": 0}, "maxConcurrentTurns"),
        ({"incarnation": None}, "incarnation"),
    ],
)
def test_a_wrong_field_of_the_pool_file_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match=rf"^pool.json: {field}: "):
        PoolConfig.read(written(tmp_path, {**SMALL, **change}))


def test_an_agent_type_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^agent type: '1a'"):
        PoolConfig.read(written(tmp_path, {**SMALL, "agents": [{"type": "1a", "entrypoint": "m:A"}]}))


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^STARLING_CONFIG: cannot read .*none\.json: No such file"):
        PoolConfig.read(tmp_path / "none.json")
    with pytest.raises(SpecError, match=r"^pool\.json: .*Invalid JSON"):
        PoolConfig.read(written(tmp_path, "{"))


def run_worker(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "starling.node"],
        env={"PATH": os.environ["PATH"], **{f"STARLING_{name}": value for name, value in environment.items()}},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_worker_without_its_settings_ends_with_2_and_one_clear_line(tmp_path: Path) -> None:
    done = run_worker(tmp_path)
    assert (done.returncode, done.stderr) == (2, "starling worker: STARLING_MESH: Field required\n")


@pytest.mark.parametrize(
    ("change", "fault", "text"),
    [
        ({"agents": [{"type": "a", "entrypoint": "nowhere:A"}]}, "", "nowhere"),
        ({}, "taken:x", "STARLING_FAULT: 'x' is no count of passes"),
    ],
    ids=["entrypoint", "fault"],
)
def test_a_worker_with_wrong_settings_ends_with_2_and_says_which(
    tmp_path: Path, change: dict[str, Any], fault: str, text: str
) -> None:
    (tmp_path / "m.py").write_text("from starling import Agent\nclass A(Agent): ...\n")
    config = written(tmp_path, {**SMALL, **change})
    done = run_worker(
        tmp_path, MESH="m", POOL="p", POD="p-0", CONFIG=str(config), CODE=str(tmp_path), FAULT=fault, HTTP_PORT="0"
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("starling worker: ")
    assert text in line


def test_a_worker_that_does_not_find_nats_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("from starling import Agent\nclass A(Agent): ...\n")
    config = written(tmp_path, SMALL)
    nobody = "nats://127.0.0.1:9"
    done = run_worker(tmp_path, MESH="m", POOL="p", POD="p-0", CONFIG=str(config), CODE=str(tmp_path), NATS_URL=nobody)
    assert done.returncode == 3
    assert nobody.removeprefix("nats://") in done.stderr.splitlines()[-1]
