"""What Helm makes of the chart, for a matrix of values."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starling.adapters.nats.server import binary

Document = dict[str, Any]
ROOT = Path(__file__).parents[2]
URL = {"nats": {"url": "nats://nats.messaging.svc:4222"}}
DEV = {"nats": {"dev": {"enabled": True}}}
EVERYTHING = {
    "nats": {"url": "tls://nats.messaging.svc:4222", "credentials": {"secretName": "nats-operator"}},
    "prometheus": {"url": "http://prometheus.monitoring.svc:9090"},
    "image": {"digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "pull"}],
    "replicas": 2,
    "podAnnotations": {"example.org/team": "flights", "prometheus.io/scrape": "false"},
    "podLabels": {"example.org/cost": "a"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
    "serviceAccount": {"name": "operator", "annotations": {"example.org/role": "x"}},
    "service": {"annotations": {"a": "b"}, "labels": {"c": "d"}},
    "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}]},
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    },
}
MATRIX = {
    "a NATS of one's own": URL,
    "the trial server": DEV,
    "the trial server in memory": {"nats": {"dev": {"enabled": True, "persistence": {"enabled": False}}}},
    "some namespaces": {**URL, "watchNamespaces": ["one", "two"]},
    "some namespaces and no nodes": {**URL, "watchNamespaces": ["one"], "rbac": {"nodes": False}},
    "everything": EVERYTHING,
    "nothing that can be left out": {
        **URL,
        "crds": {"enabled": False},
        "rbac": {"create": False},
        "serviceAccount": {"create": False},
        "dashboards": {"enabled": False},
    },
}
CLUSTER_KINDS = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
OWN = ("agentpools", "agentsubscriptions", "agentscalingtargets")
OWNED = {"get", "list", "watch", "create", "patch", "delete"}
READ = {"get", "list", "watch"}
RIGHTS = {
    **{("starlingmesh.dev", kind): {"get", "list", "watch", "patch", "update"} for kind in OWN},
    **{("starlingmesh.dev", f"{kind}/status"): {"get", "patch", "update"} for kind in OWN},
    **{("starlingmesh.dev", f"{kind}/finalizers"): {"update"} for kind in OWN},
    ("apps", "statefulsets"): OWNED,
    ("", "services"): OWNED,
    ("", "configmaps"): OWNED,
    ("", "serviceaccounts"): OWNED,
    ("policy", "poddisruptionbudgets"): OWNED,
    ("", "pods"): {"get", "list", "watch", "delete"},
    ("", "events"): {"create", "patch"},
}
NODES = {("", "nodes"): READ}
DEFINITIONS = {("apiextensions.k8s.io", "customresourcedefinitions"): {"list", "watch"}}


def rights(role: Document) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def only(documents: list[Document], kind: str, name: str | None = None, namespace: str | None = None) -> Document:
    found = [
        each
        for each in documents
        if each["kind"] == kind
        and name in (None, each["metadata"]["name"])
        and namespace in (None, each["metadata"].get("namespace"))
    ]
    assert len(found) == 1, [(each["kind"], each["metadata"]["name"]) for each in documents]
    return found[0]


def pod_specs(documents: list[Document]) -> Iterator[Document]:
    for each in documents:
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["spec"]["template"]["spec"]


def unrestricted(pod: Document) -> Iterator[str]:
    """Say where a pod falls short of Pod Security `restricted`, and of our own read-only root."""
    if any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    allowed = {
        "configMap",
        "emptyDir",
        "secret",
        "projected",
        "persistentVolumeClaim",
        "downwardAPI",
        "csi",
        "ephemeral",
    }
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= allowed:
            yield f"volume {volume['name']}"
    whole = pod.get("securityContext", {})
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = {**whole, **container.get("securityContext", {})}
        capabilities = context.get("capabilities", {})
        checks = {
            "privileged": not context.get("privileged"),
            "escalation": context.get("allowPrivilegeEscalation") is False,
            "not root": context.get("runAsNonRoot") is True and context.get("runAsUser", 1) != 0,
            "seccomp": context.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "capabilities": "ALL" in capabilities.get("drop", []) and not capabilities.get("add"),
            "host ports": not any(port.get("hostPort") for port in container.get("ports", [])),
            "read-only root": context.get("readOnlyRootFilesystem") is True,
        }
        yield from (f"{container['name']}: {what}" for what, fine in checks.items() if not fine)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_documents_are_well_formed(render: Any, values: Document) -> None:
    documents = render(values)

    names = set()
    for each in documents:
        assert {"apiVersion", "kind", "metadata"} <= each.keys()
        meta = each["metadata"]
        clustered = each["kind"] in CLUSTER_KINDS
        assert clustered == ("namespace" not in meta), (each["kind"], meta["name"])
        assert re.fullmatch(r"[a-z0-9][-.:a-z0-9]{0,62}", meta["name"])
        for value in meta.get("labels", {}).values():
            assert re.fullmatch(r"([A-Za-z0-9][-._A-Za-z0-9]{0,61})?[A-Za-z0-9]", value)
        names.add((each["kind"], meta.get("namespace"), meta["name"]))
    assert len(names) == len(documents)
    for workload in (each for each in documents if each["kind"] in ("Deployment", "StatefulSet")):
        wanted = workload["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= workload["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_every_pod_meets_pod_security_restricted(render: Any, values: Document) -> None:
    specs = list(pod_specs(render(values)))

    assert len(specs) == (2 if values["nats"].get("dev") else 1)
    assert [fault for spec in specs for fault in unrestricted(spec)] == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"hostNetwork": True}, "host namespaces"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volume v"),
        ({"securityContext": {"runAsNonRoot": True, "runAsUser": 65532}}, "c: seccomp"),
        ({"securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}}, "c: not root"),
    ],
)
def test_the_checker_sees_a_pod_that_is_not_restricted(change: Document, fault: str) -> None:
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    fine = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": own}],
    }
    assert list(unrestricted(fine)) == []
    assert list(unrestricted({**fine, **change})) == [fault]
    for key in own:
        broken = copy.deepcopy(fine)
        del broken["containers"][0]["securityContext"][key]  # type: ignore[index]
        assert len(list(unrestricted(broken))) == 1


@pytest.mark.row("CP-18", part="a wrong key is refused")
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({**URL, "natss": {}}, "natss"),
        ({"nats": {**URL["nats"], "adress": "x"}}, "adress"),
        ({**URL, "monitoring": {"podMonitor": {"enable": True}}}, "enable"),
        ({**URL, "replicas": "two"}, "replicas"),
        ({**URL, "watchNamespaces": ["Not_a_name"]}, "watchNamespaces"),
        ({"nats": {"url": "nats://user:word@nats:4222"}}, "url"),
        ({"nats": {"url": "nats:4222"}}, "url"),
    ],
)
def test_wrong_values_are_refused_by_name(render: Any, values: Document, named: str) -> None:
    with pytest.raises(render.failure, match=named):
        render(values)


def test_without_any_nats_the_way_out_is_named(render: Any) -> None:
    with pytest.raises(render.failure, match=r"nats\.url is empty.*nats\.dev\.enabled=true"):
        render({})


def test_two_kinds_of_nats_exclude_each_other(render: Any) -> None:
    with pytest.raises(render.failure, match=r"nats\.url and nats\.dev\.enabled exclude each other"):
        render({"nats": {"url": "nats://nats:4222", "dev": {"enabled": True}}})


def test_the_operator_gets_its_settings_by_environment(render: Any) -> None:
    documents = render({**EVERYTHING, "watchNamespaces": ["one", "two"]})

    container = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    environment = {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}
    image = "starlingmesh/starling@sha256:" + "0" * 64
    assert container["command"] == ["starling-operator"]
    assert container["image"] == image
    assert environment == {
        "POD_NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
        "POD_NAMESPACE": {"fieldRef": {"fieldPath": "metadata.namespace"}},
        "STARLING_NATS_URL": "tls://nats.messaging.svc:4222",
        "STARLING_NATS_CREDS": "/etc/starling/nats/nats.creds",
        "STARLING_PROMETHEUS_URL": "http://prometheus.monitoring.svc:9090",
        "STARLING_WATCH_NAMESPACES": "one,two",
        "STARLING_WORKER_IMAGE": image,
        "STARLING_LOG_FORMAT": "json",
        "STARLING_LOG_LEVEL": "INFO",
        "STARLING_HTTP_PORT": "8080",
    }
    assert len(environment) == len(container["env"])


def test_variables_of_the_user_come_after_those_of_the_chart(render: Any) -> None:
    more = [{"name": "STARLING_WORKER_NATS_URL", "value": "nats://edge:4222"}]
    container = only(render({**URL, "extraEnv": more}), "Deployment")["spec"]["template"]["spec"]["containers"][0]

    assert container["env"][-1] == more[0]
    with pytest.raises(render.failure, match="extraEnv"):
        render({**URL, "extraEnv": [{"value": "without a name"}]})


def test_annotations_of_the_user_win_over_those_of_the_chart(render: Any) -> None:
    annotations = only(render(EVERYTHING), "Deployment")["spec"]["template"]["metadata"]["annotations"]

    assert annotations["prometheus.io/scrape"] == "false"
    assert annotations["prometheus.io/port"] == "8080"
    assert annotations["example.org/team"] == "flights"


def test_the_trial_server_is_what_the_operator_connects_to(render: Any) -> None:
    documents = render(DEV)

    service = only(documents, "Service", "trial-starling-nats")
    labels = only(documents, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    container = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "STARLING_NATS_URL", "value": "nats://trial-starling-nats.mesh.svc:4222"} in container["env"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert only(documents, "StatefulSet")["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"


def test_the_trial_servers_configuration_is_one_that_a_real_server_takes(render: Any, tmp_path: Path) -> None:
    file = tmp_path / "nats.conf"
    file.write_text(only(render(DEV), "ConfigMap", "trial-starling-nats")["data"]["nats.conf"])

    check = [str(binary()), "-t", "-c", str(file)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 0, done.stderr
    assert "max_file_store: 1TB" in file.read_text()


@pytest.mark.parametrize(
    ("limit", "soft_bytes"),
    [("1Gi", "966367641"), ("900Mi", "849346560"), ("1.5G", "1350000000"), (1_000_000_000, "900000000"), (None, None)],
)
def test_the_trial_server_collects_garbage_before_its_container_runs_out_of_memory(
    render: Any, limit: str | int | None, soft_bytes: str | None
) -> None:
    values = {"nats": {"dev": {"enabled": True, "resources": {"limits": {"memory": limit}}}}}

    container = only(render(values), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]

    wanted = [] if soft_bytes is None else [{"name": "GOMEMLIMIT", "value": soft_bytes}]
    assert container.get("env", []) == wanted


def test_a_memory_limit_that_is_no_size_is_refused_by_name(render: Any) -> None:
    values = {"nats": {"dev": {"enabled": True, "resources": {"limits": {"memory": "1GB"}}}}}

    with pytest.raises(render.failure, match=r'nats\.dev\.resources\.limits\.memory: "1GB" is no size'):
        render(values)


def test_the_services_choose_no_pod_of_each_other(render: Any) -> None:
    documents = render(DEV)
    pods = {
        each["kind"]: each["spec"]["template"]["metadata"]["labels"]
        for each in documents
        if each["kind"] in ("Deployment", "StatefulSet")
    }
    chosen = {
        each["metadata"]["name"]: [
            k for k, labels in pods.items() if each["spec"]["selector"].items() <= labels.items()
        ]
        for each in documents
        if each["kind"] == "Service"
    }

    assert chosen == {"trial-starling": ["Deployment"], "trial-starling-nats": ["StatefulSet"]}


def test_the_operator_of_all_namespaces_has_these_rights_and_no_others(render: Any) -> None:
    documents = render(URL)

    assert rights(only(documents, "ClusterRole", "mesh:trial-starling")) == {**RIGHTS, **DEFINITIONS, **NODES}
    lease = only(documents, "Role", "trial-starling-lease", "mesh")
    assert lease["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["starling-operator"],
            "verbs": ["get", "update"],
        },
    ]
    assert {each["metadata"]["name"] for each in documents if each["kind"] == "Role"} == {"trial-starling-lease"}


def test_the_operator_of_some_namespaces_has_its_rights_only_there(render: Any) -> None:
    documents = render({**URL, "watchNamespaces": ["one", "two"]})

    for namespace in ("one", "two"):
        assert rights(only(documents, "Role", "trial-starling", namespace)) == RIGHTS
        binding = only(documents, "RoleBinding", "trial-starling", namespace)
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "trial-starling", "namespace": "mesh"}]
    assert rights(only(documents, "ClusterRole", "mesh:trial-starling")) == NODES


def test_without_the_nodes_nothing_reaches_beyond_the_namespaces(render: Any) -> None:
    documents = render({**URL, "watchNamespaces": ["one"], "rbac": {"nodes": False}})

    assert [each for each in documents if each["kind"] == "ClusterRoleBinding"] == []


def test_every_binding_names_a_role_and_an_account_that_are_there(render: Any) -> None:
    documents = render({**EVERYTHING, "watchNamespaces": ["one"]})
    there = {(each["kind"], each["metadata"]["name"], each["metadata"].get("namespace")) for each in documents}

    bindings = [each for each in documents if each["kind"].endswith("RoleBinding")]
    assert len(bindings) == 3
    for each in bindings:
        role = each["roleRef"]
        assert (role["kind"], role["name"], each["metadata"].get("namespace")) in there
        for subject in each["subjects"]:
            assert (subject["kind"], subject["name"], subject["namespace"]) in there


@pytest.mark.parametrize("keep", [True, False])
def test_definitions_are_those_of_the_repository_and_kept_as_asked(render: Any, keep: bool) -> None:
    documents = render({**URL, "crds": {"keep": keep}})

    expected = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    assert len(expected) == 3
    for definition in expected:
        found = only(documents, "CustomResourceDefinition", definition["metadata"]["name"])
        annotations = {**definition["metadata"].get("annotations", {})}
        if keep:
            annotations["helm.sh/resource-policy"] = "keep"
        assert found["metadata"].get("annotations", {}) == annotations
        assert found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "starling"
        assert found["spec"] == definition["spec"]


def test_definitions_can_be_left_out(render: Any) -> None:
    documents = render({**URL, "crds": {"enabled": False}})

    assert "CustomResourceDefinition" not in {each["kind"] for each in documents}


def test_boards_come_whole_and_are_found_by_label(render: Any) -> None:
    board = only(render({**URL, "dashboards": {"labelValue": "yes", "folder": "Agents"}}), "ConfigMap")

    files = sorted((ROOT / "charts/starling/files/dashboards").glob("*.json"))
    assert board["data"] == {path.name: path.read_text() for path in files}
    assert files
    assert board["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert board["metadata"]["annotations"] == {"grafana_folder": "Agents"}


def test_rules_come_as_they_are_in_their_file(render: Any) -> None:
    rule = only(render(EVERYTHING), "PrometheusRule")

    assert rule["spec"] == yaml.safe_load((ROOT / "charts/starling/files/rules/starling.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_pod_monitors_choose_workers_and_operator(render: Any) -> None:
    documents = render({**EVERYTHING, "watchNamespaces": ["one"]})

    workers = only(documents, "PodMonitor", "trial-starling-pools")["spec"]
    operator = only(documents, "PodMonitor", "trial-starling-operator")["spec"]
    labels = only(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert workers["selector"] == {"matchExpressions": [{"key": "starlingmesh.dev/pool", "operator": "Exists"}]}
    assert workers["namespaceSelector"] == {"matchNames": ["one"]}
    assert workers["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics", "interval": "5s"}]
    assert operator["selector"]["matchLabels"].items() <= labels.items()
    # The operator's samples name the namespace of the pool; the pod's own must not push it aside.
    assert operator["podMetricsEndpoints"][0]["honorLabels"] is True


def test_nothing_secret_is_rendered(render: Any) -> None:
    for values in MATRIX.values():
        assert "Secret" not in {each["kind"] for each in render(values)}
