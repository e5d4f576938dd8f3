"""What Prometheus is told about pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hack.cluster.podsd import labels_of, targets_of
from hack.cluster.prometheus import Scrape, config


def pod(**status: Any) -> dict[str, Any]:
    meta = {
        "namespace": "demo",
        "name": "airports-0",
        "uid": "u1",
        "labels": {"starlingmesh.dev/pool": "airports"},
        "annotations": {"prometheus.io/port": "8080", "long": "x" * 1000},
    }
    return {"metadata": meta, "spec": {"nodeName": "node1"}, "status": {"phase": "Running", **status}}


def test_labels_have_the_names_of_kubernetes_own_discovery() -> None:
    ready = {"podIP": "127.64.0.3", "conditions": [{"type": "Ready", "status": "True"}]}
    assert labels_of(pod(**ready)) == {
        "__meta_kubernetes_namespace": "demo",
        "__meta_kubernetes_pod_name": "airports-0",
        "__meta_kubernetes_pod_ip": "127.64.0.3",
        "__meta_kubernetes_pod_uid": "u1",
        "__meta_kubernetes_pod_node_name": "node1",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_ready": "true",
        "__meta_kubernetes_pod_label_starlingmesh_dev_pool": "airports",
        "__meta_kubernetes_pod_labelpresent_starlingmesh_dev_pool": "true",
        "__meta_kubernetes_pod_annotation_prometheus_io_port": "8080",
        "__meta_kubernetes_pod_annotationpresent_prometheus_io_port": "true",
    }


def test_a_pod_that_is_not_ready_says_so() -> None:
    unready = {"podIP": "127.64.0.3", "conditions": [{"type": "Ready", "status": "False"}]}
    assert labels_of(pod(**unready))["__meta_kubernetes_pod_ready"] == "false"
    assert labels_of(pod(conditions=None))["__meta_kubernetes_pod_ready"] == "false"


def test_a_pod_without_an_address_is_no_target() -> None:
    found = targets_of([pod(podIP="127.64.0.3"), pod(), pod(podIP="")])
    assert [each["targets"] for each in found] == [["127.64.0.3"]]


def test_the_configuration_names_interval_rules_and_fixed_targets(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    written = config(Scrape(targets={"operator": ["127.0.0.1:9"]}, rules=(rules,), interval=0.5), None)
    assert written["global"] == {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    assert written["rule_files"] == [str(rules)]
    assert written["scrape_configs"] == [{"job_name": "operator", "static_configs": [{"targets": ["127.0.0.1:9"]}]}]


def test_pods_are_kept_by_annotation_and_their_samples_named_after_them() -> None:
    (job,) = config(Scrape(), "http://127.0.0.1:1/")["scrape_configs"]
    assert job["http_sd_configs"] == [{"url": "http://127.0.0.1:1/", "refresh_interval": "1s"}]
    keep = job["relabel_configs"][0]
    assert (keep["action"], keep["source_labels"]) == (
        "keep",
        ["__meta_kubernetes_pod_annotation_prometheus_io_scrape"],
    )
    assert {"namespace", "pod", "__address__", "__metrics_path__"} == {
        rule["target_label"] for rule in job["relabel_configs"] if "target_label" in rule
    }
