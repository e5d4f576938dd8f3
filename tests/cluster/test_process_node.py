"""StatefulSets scheduled by the real scheduler run as local processes, and end as pods do."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import prometheus
from hack.cluster.api import Json, wait_until
from hack.cluster.apiserver import Shape, is_ready, node_arguments
from hack.cluster.kit import Cluster, pid_of, running
from hack.cluster.processes import started_at

SERVER = """
import http.server, os, signal, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500 if os.path.exists("sick") else 200)
        self.end_headers()
        self.wfile.write(b'up_seconds{name="%s"} 1\\n' % os.environ["POD_NAME"].encode())

    def log_message(self, *given):
        pass

def end(*given):
    print("asked to end", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
print("serving", os.environ["POD_NAME"], os.environ["POD_IP"], flush=True)
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8000), Handler).serve_forever()
"""
ANNOTATIONS = {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}
HTTP_GET = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}


def field(path: str) -> Json:
    return {"valueFrom": {"fieldRef": {"fieldPath": path}}}


def server_container(**more: Any) -> Json:
    return {
        "name": "web",
        "image": "server:local",
        "command": ["python3", "-c", SERVER],
        "env": [{"name": "POD_NAME", **field("metadata.name")}, {"name": "POD_IP", **field("status.podIP")}],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": HTTP_GET,
        **more,
    }


def stateful_set(replicas: int) -> Json:
    spec = {"terminationGracePeriodSeconds": 10, "containers": [server_container()]}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web"},
        "spec": {
            "serviceName": "web",
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}, "annotations": ANNOTATIONS}, "spec": spec},
        },
    }


def single(name: str, container: Json, **spec: Any) -> Json:
    container = {"name": "main", "image": "none:local", **container}
    pod = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 10, **spec, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}


def config_map(name: str, **data: str) -> Json:
    names = {key.replace("_", "."): text for key, text in data.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": names}


def ready_pods(cluster: Cluster, namespace: str, count: int) -> list[Json]:
    def look() -> list[Json] | None:
        pods = cluster.pods(namespace)
        return pods if len(pods) == count and all(map(is_ready, pods)) else None

    return wait_until(f"{count} pods are Ready", look)


def pod_when(cluster: Cluster, namespace: str, name: str, what: str, fact: Callable[[Json], object]) -> Json:
    def look() -> Json | None:
        pod = cluster.api.find(f"/api/v1/namespaces/{namespace}/pods/{name}")
        return pod if pod and fact(pod) else None

    return wait_until(f"pod {name} {what}", look)


def container_status(pod: Json) -> Json:
    found: list[Json] = pod["status"].get("containerStatuses") or [{}]
    return found[0]


def waiting_of(pod: Json) -> Json:
    found: Json = container_status(pod).get("state", {}).get("waiting", {})
    return found


def text_when(path: Path, what: str, fact: Callable[[str], object]) -> str:
    def look() -> str | None:
        text = path.read_text() if path.exists() else ""
        return text if fact(text) else None

    return wait_until(f"{path.name} {what}", look)


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> list[Json]:
    """A StatefulSet of three Ready pods, in order."""
    cluster.apply(stateful_set(3), namespace=namespace)
    return ready_pods(cluster, namespace, 3)


def test_three_pods_of_a_stateful_set_are_ready_at_addresses_of_their_own(cluster: Cluster, web: list[Json]) -> None:
    assert [pod["metadata"]["name"] for pod in web] == ["web-0", "web-1", "web-2"]
    assert {pod["spec"]["nodeName"] for pod in web} <= set(cluster.nodes)
    addresses = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in web}
    assert len(set(addresses.values())) == 3
    for name, ip in addresses.items():
        with urllib.request.urlopen(f"http://{ip}:8000/", timeout=5) as answer:
            assert f'name="{name}"' in answer.read().decode()


def test_a_pod_sees_its_own_address_and_kubectl_shows_what_it_printed(
    cluster: Cluster, namespace: str, web: list[Json]
) -> None:
    printed = cluster.kubectl("logs", "web-1", "--namespace", namespace)

    assert printed.splitlines()[0] == f"serving web-1 {web[1]['status']['podIP']}"


def test_a_container_whose_process_is_killed_is_started_again(
    cluster: Cluster, namespace: str, web: list[Json]
) -> None:
    before = pid_of(web[1])

    os.kill(before, signal.SIGKILL)

    pod = pod_when(
        cluster, namespace, "web-1", "is Ready again",
        lambda pod: is_ready(pod) and container_status(pod)["restartCount"] == 1,
    )  # fmt: skip
    assert pod["metadata"]["uid"] == web[1]["metadata"]["uid"]
    assert pid_of(pod) != before
    assert container_status(pod)["lastState"]["terminated"]["exitCode"] == 137
    assert pod["status"]["podIP"] == web[1]["status"]["podIP"]


def test_a_deleted_pod_comes_back_under_its_name_as_another_process(
    cluster: Cluster, namespace: str, web: list[Json]
) -> None:
    cluster.kubectl("delete", "pod", "web-1", "--namespace", namespace, "--wait=false")

    old = web[1]["metadata"]["uid"]
    pod = pod_when(
        cluster, namespace, "web-1", "is new and Ready",
        lambda pod: pod["metadata"]["uid"] != old and is_ready(pod),
    )  # fmt: skip
    assert pid_of(pod) != pid_of(web[1])
    assert "asked to end" in (cluster.pod_folder(web[1]) / "web.log").read_text()


def test_scaling_in_ends_the_highest_pods_with_a_signal_that_they_can_honour(
    cluster: Cluster, namespace: str, web: list[Json]
) -> None:
    cluster.kubectl("scale", "statefulset/web", "--replicas=1", "--namespace", namespace)

    assert [pod["metadata"]["name"] for pod in ready_pods(cluster, namespace, 1)] == ["web-0"]
    assert [bool(started_at(pid_of(pod))) for pod in web] == [True, False, False]
    for pod in web[1:]:
        assert "asked to end" in (cluster.pod_folder(pod) / "web.log").read_text()


def test_a_container_that_ignores_sigterm_is_killed_when_its_grace_is_over(cluster: Cluster, namespace: str) -> None:
    stubborn = {"command": ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]}
    cluster.apply(single("stubborn", stubborn, terminationGracePeriodSeconds=1), namespace=namespace)
    pod = pod_when(cluster, namespace, "stubborn", "is Ready", is_ready)
    text_when(cluster.pod_folder(pod) / "main.log", "says that it is deaf", lambda text: "deaf" in text)
    asked = time.monotonic()

    cluster.kubectl("delete", "pod", "stubborn", "--namespace", namespace, "--timeout=20s")

    assert time.monotonic() - asked >= 1.0
    assert not started_at(pid_of(pod))


def test_a_pre_stop_command_runs_before_the_signal(cluster: Cluster, namespace: str) -> None:
    main = {
        "command": ["sh", "-c", "trap 'echo signal >> order; exit 0' TERM; echo begun; while :; do sleep 0.1; done"],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> order"]}}},
    }
    cluster.apply(single("polite", main), namespace=namespace)
    pod = pod_when(cluster, namespace, "polite", "is Ready", is_ready)
    text_when(cluster.pod_folder(pod) / "main.log", "says that it has begun", lambda text: "begun" in text)

    cluster.kubectl("delete", "pod", "polite", "--namespace", namespace, "--timeout=20s")

    assert (cluster.pod_folder(pod) / "order").read_text().split() == ["hook", "signal"]


def test_a_failing_liveness_probe_restarts_the_container(cluster: Cluster, namespace: str) -> None:
    probe = {**HTTP_GET, "failureThreshold": 2}
    cluster.apply(single("watched", server_container(livenessProbe=probe)), namespace=namespace)
    pod = pod_when(cluster, namespace, "watched", "is Ready", is_ready)

    sick = cluster.pod_folder(pod) / "sick"
    sick.touch()

    pod_when(cluster, namespace, "watched", "is restarted", lambda pod: container_status(pod)["restartCount"] >= 1)
    sick.unlink()
    pod_when(cluster, namespace, "watched", "is Ready again", is_ready)


def test_config_maps_are_files_that_follow_their_changes(cluster: Cluster, namespace: str) -> None:
    script = "import os, sys; sys.path.insert(0, os.environ['CODE']); import flights; print(flights.NAME, flush=True)\n"
    script += (
        "import time\nwhile True: print(open(sys.argv[1]).read(), os.listdir(sys.argv[2]), flush=True); time.sleep(0.2)"
    )
    main = {
        "command": ["python3", "-c", script, "$(CONFIG)", "/etc/starling"],
        "env": [
            {"name": "CONFIG", "value": "/etc/starling/pool.json"},
            {"name": "CODE", "value": "/etc/starling/code"},
        ],
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/starling"},
            {"name": "code", "mountPath": "/etc/starling/code"},
        ],
    }
    volumes = [{"name": "config", "configMap": {"name": "config"}}, {"name": "code", "configMap": {"name": "code"}}]
    before, after = (
        config_map("config", pool_json="shards 8", old_txt="gone soon"),
        config_map("config", pool_json="shards 16"),
    )
    cluster.apply(before, config_map("code", flights_py="NAME = 'aircraft'"), namespace=namespace)
    cluster.apply(single("reader", main, volumes=volumes), namespace=namespace)
    pod = pod_when(cluster, namespace, "reader", "is Ready", is_ready)
    log = cluster.pod_folder(pod) / "main.log"
    first = text_when(log, "shows the file", lambda text: "shards 8" in text).splitlines()
    assert first[0] == "aircraft"
    assert {"pool.json", "old.txt", "code"} == set(eval(first[1].removeprefix("shards 8 ")))

    changed = time.monotonic()
    cluster.api("PUT", f"/api/v1/namespaces/{namespace}/configmaps/config", after)

    last = text_when(log, "shows the change", lambda text: "shards 16" in text).splitlines()[-1]
    assert time.monotonic() - changed < 6.0
    text_when(log, "no longer lists the old file", lambda text: "old.txt" not in text.splitlines()[-1])
    assert "shards 16" in last
    assert container_status(pod_when(cluster, namespace, "reader", "is Ready", is_ready))["restartCount"] == 0


def test_a_container_waits_for_the_config_map_that_it_names(cluster: Cluster, namespace: str) -> None:
    main = {"command": ["sh", "-c", "echo $LEVEL; sleep 60"], "envFrom": [{"configMapRef": {"name": "later"}}]}
    cluster.apply(single("patient", main), namespace=namespace)
    pod = pod_when(
        cluster, namespace, "patient", "says what it waits for",
        lambda pod: waiting_of(pod).get("reason") == "CreateContainerConfigError",
    )  # fmt: skip
    assert "no configmaps later" in waiting_of(pod)["message"]

    cluster.apply(config_map("later", LEVEL="debug"), namespace=namespace)

    pod = pod_when(cluster, namespace, "patient", "is Ready", is_ready)
    text_when(cluster.pod_folder(pod) / "main.log", "shows the value", lambda text: text.strip() == "debug")


def test_an_image_without_a_command_runs_its_entrypoint(cluster: Cluster, namespace: str) -> None:
    env = [{"name": "WHO", **field("metadata.name")}]
    main = {"image": "example.org/demo/greeter:1.0", "args": ["$(WHO)"], "env": env}
    cluster.apply(single("greeting", main, restartPolicy="Never"), namespace=namespace)

    pod_when(cluster, namespace, "greeting", "has succeeded", lambda pod: pod["status"]["phase"] == "Succeeded")

    assert cluster.kubectl("logs", "greeting", "--namespace", namespace) == "hello from greeting\n"


def test_init_containers_run_before_the_others(cluster: Cluster, namespace: str) -> None:
    volumes = [{"name": "data", "emptyDir": {}}]
    mount = [{"name": "data", "mountPath": "/data"}]
    first = {"name": "first", "image": "none", "command": ["sh", "-c", "echo made > /data/file"], "volumeMounts": mount}
    main = {"command": ["cat", "/data/file"], "volumeMounts": mount}
    pod = single("ordered", main, volumes=volumes, initContainers=[first], restartPolicy="Never")
    cluster.apply(pod, namespace=namespace)

    pod_when(cluster, namespace, "ordered", "has succeeded", lambda pod: pod["status"]["phase"] == "Succeeded")

    assert cluster.kubectl("logs", "ordered", "--namespace", namespace) == "made\n"


def test_a_killed_node_takes_its_processes_with_it_and_its_pods_back(
    cluster: Cluster, namespace: str, web: list[Json]
) -> None:
    node = web[0]["spec"]["nodeName"]
    its_pods = [pod for pod in web if pod["spec"]["nodeName"] == node]

    cluster.plane.kill(node)
    pids = [pid_of(pod) for pod in its_pods]
    wait_until("its processes are gone", lambda: not any(map(started_at, pids)))
    cluster.plane.start(node)

    for pod in its_pods:
        again = pod_when(
            cluster, namespace, pod["metadata"]["name"], "is Ready again",
            lambda pod: is_ready(pod) and container_status(pod)["restartCount"] == 1,
        )  # fmt: skip
        assert again["metadata"]["uid"] == pod["metadata"]["uid"]
        assert again["status"]["podIP"] == pod["status"]["podIP"]


def test_prometheus_finds_pods_by_their_annotation_and_answers_queries(
    cluster: Cluster, namespace: str, web: list[Json], tmp_path: Path
) -> None:
    if why := prometheus.missing():
        pytest.skip(why)
    rules = tmp_path / "rules.yml"
    rules.write_text('{"groups": [{"name": "t", "rules": [{"record": "pods:up", "expr": "sum(up_seconds)"}]}]}')
    scrape = prometheus.Scrape(kubeconfig=cluster.kubeconfig, rules=(rules,))
    with prometheus.running(tmp_path / "prometheus", scrape) as server:
        mine = f'up_seconds{{namespace="{namespace}"}}'
        samples = server.wait_for(mine, lambda found: len(found) == 3)
        assert {sample.labels["pod"] for sample in samples} == {"web-0", "web-1", "web-2"}
        assert {(sample.labels["instance"], sample.value) for sample in samples} == {
            (f"{pod['status']['podIP']}:8000", 1.0) for pod in web
        }
        recorded = server.wait_for("pods:up", lambda found: found and found[0].value >= 3)
        assert recorded[0].name == "pods:up"
        with pytest.raises(prometheus.QueryFailed, match="parse error"):
            server.query("sum(")
        alive = server.processes.alive()
    assert [name for name, pid in alive.items() if started_at(pid)] == []


def test_pods_run_on_and_are_restarted_while_the_api_server_is_away(cluster: Cluster, tmp_path: Path) -> None:
    del cluster  # its skip is ours; the controllers of a shared one would sulk for half a minute
    with running(tmp_path / "own", Shape(nodes=1, node_arguments=node_arguments())) as own:
        namespace = own.new_namespace()
        own.apply(single("lasting", server_container()), namespace=namespace)
        pod = pod_when(own, namespace, "lasting", "is Ready", is_ready)
        log = own.pod_folder(pod) / "web.log"

        own.plane.kill("kube-apiserver")
        os.kill(pid_of(pod), signal.SIGKILL)
        text_when(log, "shows a second start", lambda text: text.count("serving") == 2)
        own.plane.start("kube-apiserver")

        again = pod_when(
            own, namespace, "lasting", "is reported as restarted",
            lambda pod: is_ready(pod) and container_status(pod)["restartCount"] == 1,
        )  # fmt: skip
        assert again["metadata"]["uid"] == pod["metadata"]["uid"]
