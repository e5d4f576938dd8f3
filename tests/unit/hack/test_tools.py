"""Building and finding the cluster's programs, with a program that stands in for the Go compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hack.tools.programs import (
    HERE,
    PROGRAMS,
    ROOT,
    Program,
    find,
    folder,
    key,
    kubernetes_version,
    link_flags,
    missing,
)

# Writes the file that -o names, and a line to $BUILDS; $GO_FAILS names a program that does not build.
COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo "$2" >> "$BUILDS"
sleep "${GO_SECONDS:-0}"
case "$2" in *"${GO_FAILS:-none}"*) printf half > "$2"; exit 1;; esac
printf '#!/bin/sh\\n' > "$2"; chmod +x "$2"
"""
NAMES = {program.name for program in PROGRAMS}


class Machine:
    """A place with a stand-in for Go and an empty cache."""

    def __init__(self, folder: Path) -> None:
        self.tools, self.builds, self.bin = folder / "tools", folder / "builds", folder / "bin"
        self.bin.mkdir()
        (self.bin / "go").write_text(COMPILER)
        (self.bin / "go").chmod(0o755)
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "STARLING_TOOLS": str(self.tools), "BUILDS": str(self.builds)}

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        command = [str(ROOT / "hack" / "tools" / "build"), *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env={**self.env, **env}, text=True, **streams)  # type: ignore[call-overload, no-any-return]

    def build(self, *arguments: str, **env: str) -> tuple[int, str]:
        with self.start(*arguments, **env) as process:
            out, _ = process.communicate(timeout=60)
        return process.returncode, out

    @property
    def built(self) -> set[str]:
        return {path.name for path in self.tools.iterdir() if not path.name.startswith(".")} - {"build.log"}

    @property
    def compiled(self) -> list[str]:
        return self.builds.read_text().split() if self.builds.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_all_programs_are_built_once(machine: Machine) -> None:
    code, out = machine.build()
    assert (code, machine.built) == (0, NAMES)
    assert "[   0 s] etcd: building" in out

    code, out = machine.build()

    assert (code, len(machine.compiled)) == (0, len(NAMES))
    assert f"all {len(NAMES)} programs are in {machine.tools}" in out


def test_two_builds_at_once_build_each_program_once(machine: Machine) -> None:
    with machine.start(GO_SECONDS="0.1") as one, machine.start(GO_SECONDS="0.1") as two:
        outs = [process.communicate(timeout=60)[0] for process in (one, two)]

    assert (one.returncode, two.returncode) == (0, 0)
    assert len(machine.compiled) == len(NAMES)
    assert any("another build is writing" in out for out in outs)


def test_a_program_that_does_not_build_leaves_nothing_and_fails_the_build(machine: Machine) -> None:
    code, out = machine.build(GO_FAILS="kubectl")

    assert code == 1
    assert machine.built == NAMES - {"kubectl"}
    assert "kubectl: go build ended with exit code 1" in out
    assert not list(machine.tools.glob(".*.tmp"))


def test_a_build_in_the_background_returns_at_once_and_can_be_waited_for(machine: Machine) -> None:
    code, out = machine.build("--background", GO_SECONDS="0.2")
    assert code == 0
    assert "in the background" in out
    assert machine.built < NAMES

    code, out = machine.build("--wait", "30")

    assert (code, machine.built) == (0, NAMES)
    assert "helm: built in" in out


def test_a_wait_ends_when_its_time_is_over(machine: Machine) -> None:
    machine.build("--background", GO_SECONDS="0.5")

    code, out = machine.build("--wait", "0.1")

    assert code == 1
    assert "still building after 0 s: " in out
    assert machine.build("--wait", "30")[0] == 0


def test_waiting_without_a_build_says_what_is_missing(machine: Machine) -> None:
    code, out = machine.build("--wait", "5")

    assert code == 1
    assert "no build is running and these are missing" in out


def test_without_go_a_background_build_is_no_failure(machine: Machine) -> None:
    (machine.bin / "go").unlink()
    for tool in ("sh", "dirname"):
        (machine.bin / tool).symlink_to(str(shutil.which(tool)))

    code, out = machine.build("--background", PATH=str(machine.bin))
    assert code == 0
    assert "Go is not installed" in out
    assert machine.build(PATH=str(machine.bin))[0] == 1


def test_programs_are_found_in_the_order_assets_cache_path(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("assets", "cache", "path")}
    for place in places.values():
        place.mkdir()
        (place / "etcd").touch(mode=0o755)
    env = {
        "KUBEBUILDER_ASSETS": str(places["assets"]),
        "STARLING_TOOLS": str(places["cache"]),
        "PATH": str(places["path"]),
    }
    for place in places.values():
        assert find("etcd", env) == place / "etcd"
        (place / "etcd").unlink()
    assert find("etcd", env) is None


def test_a_file_that_cannot_be_run_is_not_a_program(tmp_path: Path) -> None:
    (tmp_path / "etcd").touch(mode=0o644)
    assert find("etcd", {"STARLING_TOOLS": str(tmp_path), "PATH": ""}) is None


def test_what_is_missing_is_said_with_the_places(tmp_path: Path) -> None:
    env = {"STARLING_TOOLS": str(tmp_path), "PATH": "", "KUBEBUILDER_ASSETS": "/assets"}
    why = missing(["etcd", "kubectl"], env)
    assert why == f"no etcd, kubectl: not in KUBEBUILDER_ASSETS (/assets), {tmp_path} or PATH; Go is not installed"
    (tmp_path / "etcd").touch(mode=0o755)
    assert missing(["etcd"], env) is None


def test_the_cache_is_named_by_the_pinned_modules_and_lies_outside_the_clone(tmp_path: Path) -> None:
    for module in ("kubernetes", "helm"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "go.mod").write_text(module)
    before = key(tmp_path)
    (tmp_path / "helm" / "go.mod").write_text("another version")

    assert key(tmp_path) != before
    assert folder({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/starling/tools") / key()
    assert not folder({}).is_relative_to(ROOT)


def test_every_program_is_pinned_by_a_module_that_is_there() -> None:
    assert all((HERE / program.module / "go.sum").exists() for program in PROGRAMS)


def test_kubernetes_programs_are_told_their_pinned_version() -> None:
    version = kubernetes_version((HERE / "kubernetes" / "go.mod").read_text())
    assert version.startswith("1.34.")
    flags = link_flags(Program("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"))
    assert f"k8s.io/client-go/pkg/version.gitVersion=v{version}" in flags
    assert link_flags(Program("helm", "helm", "helm.sh/helm/v3/cmd/helm")) == "-s -w"
