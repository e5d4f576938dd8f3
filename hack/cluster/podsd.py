"""Pod discovery for a Prometheus without Kubernetes support (Debian's): HTTP discovery with kubernetes_sd's own labels.

python -m hack.cluster.podsd KUBECONFIG PORT
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hack.cluster.api import Api, Json
from hack.cluster.apiserver import is_ready
from hack.cluster.errors import KitError

RUNNING = "/api/v1/pods?fieldSelector=status.phase=Running"
LONGEST_VALUE = 1000  # an annotation may hold a whole manifest


def labels_of(pod: Json) -> dict[str, str]:
    """Return kubernetes_sd's meta labels of a pod, with the values as it would give them."""
    meta, status = pod["metadata"], pod["status"]
    labels = {
        "namespace": meta["namespace"],
        "pod_name": meta["name"],
        "pod_ip": status.get("podIP", ""),
        "pod_uid": meta["uid"],
        "pod_node_name": pod["spec"].get("nodeName", ""),
        "pod_phase": status.get("phase", ""),
        "pod_ready": str(is_ready(pod)).lower(),
    }
    for kind in ("label", "annotation"):
        for key, value in meta.get(f"{kind}s", {}).items():
            if len(value) < LONGEST_VALUE:
                labels[f"pod_{kind}_{re.sub('[^a-zA-Z0-9_]', '_', key)}"] = value
                labels[f"pod_{kind}present_{re.sub('[^a-zA-Z0-9_]', '_', key)}"] = "true"
    return {f"__meta_kubernetes_{name}": value for name, value in labels.items()}


def targets_of(pods: Iterable[Json]) -> list[Json]:
    """Return one discovery entry for each pod that has an address."""
    return [{"targets": [ip], "labels": labels_of(pod)} for pod in pods if (ip := pod["status"].get("podIP"))]


def server(kubeconfig: Path, port: int) -> ThreadingHTTPServer:
    """Return a server that lists the running pods at every path; an API server that is away is a 503."""
    api = Api(kubeconfig)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                status, body = 200, json.dumps(targets_of(api("GET", RUNNING)["items"])).encode()
            except KitError as error:  # Prometheus keeps the targets that it has
                status, body = 503, str(error).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing: Prometheus asks every second."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> int:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    server(given.kubeconfig, given.port).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
