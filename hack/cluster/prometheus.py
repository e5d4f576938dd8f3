"""A real Prometheus on a free loopback port, which scrapes pods that ask for it by annotation.

A pod asks with ``prometheus.io/scrape: "true"`` and ``prometheus.io/port``, and ``prometheus.io/path`` if it is not
/metrics; its samples get the labels `namespace` and `pod`. Discovery passes changes on every 5 seconds.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster.api import Json, wait_until
from hack.cluster.errors import KitError, MissingProgram
from hack.cluster.processes import Processes, free_port
from hack.tools.programs import ROOT, find

PROGRAM = "prometheus"
META = "__meta_kubernetes_"
ANNOTATION = f"{META}pod_annotation_prometheus_io_"


class QueryFailed(KitError):
    """Prometheus refused a query; the text is its own reason."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series' value. labels: without the metric's name, which is `name` (empty after an aggregation)."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """What to scrape, how often, by which rules.

    kubeconfig: of the cluster whose pods are discovered, None for none; targets: fixed ``ip:port``; rules: rule files;
    interval: seconds between scrapes and between evaluations.
    """

    kubeconfig: Path | None = None
    targets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rules: tuple[Path, ...] = ()
    interval: float = 1.0


def missing() -> str | None:
    """Return why there is no Prometheus; None when there is one."""
    return None if find(PROGRAM) else "no prometheus in PATH (Debian's package `prometheus` has it)"


def config(scrape: Scrape, discovery: str | None) -> Json:
    """Return Prometheus's configuration. discovery: address of the pod discovery; targets are named by job."""
    every = f"{round(scrape.interval * 1000)}ms"
    jobs: list[Json] = [
        {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in scrape.targets.items()
    ]
    if discovery:
        found = {"url": discovery, "refresh_interval": "1s"}
        jobs.append({"job_name": "pods", "http_sd_configs": [found], "relabel_configs": relabelling()})
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(path.absolute()) for path in scrape.rules],
        "scrape_configs": jobs,
    }


def relabelling() -> list[Json]:
    """Return the rules that keep pods with the annotation and name their samples, as they are with kubernetes_sd."""
    port = [f"{META}pod_ip", f"{ANNOTATION}port"]
    return [
        {"source_labels": [f"{ANNOTATION}scrape"], "action": "keep", "regex": "true"},
        {"source_labels": port, "separator": ":", "regex": "(.+:.+)", "target_label": "__address__"},
        {"source_labels": [f"{ANNOTATION}path"], "regex": "(.+)", "target_label": "__metrics_path__"},
        {"source_labels": [f"{META}namespace"], "target_label": "namespace"},
        {"source_labels": [f"{META}pod_name"], "target_label": "pod"},
    ]


class Prometheus:
    """A Prometheus that runs; `url` is its address."""

    def __init__(self, folder: Path, *, tied: bool = True) -> None:
        self.folder = folder.absolute()
        self.url = ""
        self.processes = Processes(self.folder, tied=tied)

    def start(self, scrape: Scrape, *, port: int | None = None, seconds: float = 30.0) -> None:
        """Start it, and pod discovery with it, and wait until it is ready.

        Raises MissingProgram without a prometheus, NotReady with the end of its log when it does not come up.
        """
        program = find(PROGRAM)
        if program is None:
            raise MissingProgram(missing())
        self.folder.mkdir(parents=True, exist_ok=True)
        discovery = self._start_discovery(scrape.kubeconfig) if scrape.kubeconfig else None
        path = self.folder / "prometheus.yml"
        path.write_text(json.dumps(config(scrape, discovery), indent=1))  # JSON is YAML
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        options = {
            "config.file": path,
            "storage.tsdb.path": self.folder / "data",
            "web.listen-address": f"127.0.0.1:{port}",
            "log.level": "warn",
        }
        command = [str(program), *(f"--{name}={value}" for name, value in options.items())]
        self.processes.spawn(PROGRAM, command)
        try:
            wait_until("Prometheus is ready", self._is_ready, seconds=seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and its discovery."""
        self.processes.stop()

    def kill(self) -> None:
        """SIGKILL it, as a crash would; `restart` brings it back with its data."""
        self.processes.kill(PROGRAM)

    def restart(self, *, seconds: float = 30.0) -> None:
        """Start it again at the same address, on the same data."""
        self.processes.start(PROGRAM)
        wait_until("Prometheus is ready again", self._is_ready, seconds=seconds)

    def query(self, promql: str, *, timeout: float = 10.0) -> list[Sample]:
        """Return the instant vector of a query; a scalar is one sample without labels.

        Raises QueryFailed when it is refused or not answered.
        """
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
        try:
            with urllib.request.urlopen(address, timeout=timeout) as answer:
                data = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise QueryFailed(f"{promql}: {error.read().decode(errors='replace')[:500]}") from None
        except OSError as error:
            raise QueryFailed(f"{promql}: {error}") from error
        if data["resultType"] == "scalar":
            return [Sample("", {}, float(data["result"][1]))]
        return [_sample(each["metric"], each["value"][1]) for each in data["result"]]

    def wait_for(
        self, promql: str, enough: Callable[[list[Sample]], object] = bool, *, seconds: float = 30.0
    ) -> list[Sample]:
        """Return the first answer to the query that is `enough` (default: any sample). Raises NotReady."""

        def look() -> list[Sample] | None:
            found = self.query(promql)
            return found if enough(found) else None

        return wait_until(f"enough samples for {promql}", look, seconds=seconds, pause=0.1)

    def _start_discovery(self, kubeconfig: Path) -> str:
        port = free_port()
        command = [sys.executable, "-m", "hack.cluster.podsd", str(kubeconfig), str(port)]
        self.processes.spawn("podsd", command, cwd=ROOT)
        return f"http://127.0.0.1:{port}/"

    def _is_ready(self) -> bool:
        self.processes.require(PROGRAM)
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False


@contextmanager
def running(folder: Path, scrape: Scrape) -> Iterator[Prometheus]:
    """Run a Prometheus for the length of a `with`."""
    prometheus = Prometheus(folder)
    prometheus.start(scrape)
    try:
        yield prometheus
    finally:
        prometheus.stop()


def _sample(metric: Mapping[str, str], value: str) -> Sample:
    labels = {name: text for name, text in metric.items() if name != "__name__"}
    return Sample(metric.get("__name__", ""), labels, float(value))
