"""A real Kubernetes on this machine, as plain processes.

    python -m hack.cluster up [--nodes N | --controllers | --api-only]
    python -m hack.cluster down
    python -m hack.cluster status
    python -m hack.cluster kill NAME      SIGKILL one process, such as kube-apiserver or node1
    python -m hack.cluster start NAME     start it again on the same data

Everything lies below --dir (build/cluster), the kubeconfig too. Exit codes: 0, 1 failed, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hack.cluster.apiserver import ControlPlane, Shape, node_arguments
from hack.cluster.errors import KitError
from hack.tools.programs import ROOT, find


def main() -> int:
    """Read the command line and do it."""
    given = _parser().parse_args()
    plane = ControlPlane(given.dir)
    try:
        return _do(plane, given)
    except KitError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1


def _do(plane: ControlPlane, given: argparse.Namespace) -> int:
    if given.what == "up":
        nodes = 0 if given.api_only or given.controllers else given.nodes
        arguments = node_arguments(backoff=given.backoff, entrypoints=given.entrypoint)
        marks = plane.up(Shape(given.controllers, nodes, arguments))
        print(", ".join(f"{stage} after {seconds:.1f} s" for stage, seconds in marks.items()))
        print(f"export KUBECONFIG={plane.kubeconfig}")
        print(f"{find('kubectl')} get nodes")
    elif given.what == "down":
        plane.down()
        print("down")
    elif given.what == "status":
        print(plane.processes.usage() or "down")
        return 0 if plane.processes.alive() else 1
    elif given.name is None:
        print(f"cluster {given.what}: name the process", file=sys.stderr)
        return 2
    elif given.what == "kill":
        plane.kill(given.name)
    else:
        plane.start(given.name)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["up", "down", "status", "kill", "start"])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "cluster")
    parser.add_argument("--nodes", type=int, default=2, help="process nodes (default 2)")
    parser.add_argument("--controllers", action="store_true", help="controllers and scheduler, but no node")
    parser.add_argument("--api-only", action="store_true", help="etcd and the API server only")
    parser.add_argument("--backoff", type=float, default=1.0, help="seconds before a container's second restart")
    parser.add_argument("--entrypoint", action="append", default=[], metavar="IMAGE=COMMAND")
    return parser


if __name__ == "__main__":
    sys.exit(main())
