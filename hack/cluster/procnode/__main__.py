"""A Kubernetes node whose containers are plain processes.

python -m hack.cluster.procnode --kubeconfig FILE --dir FOLDER [--name node1] [--certs FOLDER]
    [--entrypoint IMAGE=COMMAND]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from hack.cluster.errors import KitError
from hack.cluster.procnode.node import Node, Options


def main() -> int:
    """Read the command line and be a node until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--dir", type=Path, required=True, help="the pods' folders and logs")
    parser.add_argument("--name", default="node1")
    parser.add_argument("--certs", type=Path, help="folder with api.crt and api.key, for kubectl logs")
    parser.add_argument("--backoff", type=float, default=10.0, help="seconds before the second restart in a row")
    parser.add_argument("--entrypoint", action="append", default=[], metavar="IMAGE=COMMAND")
    given = parser.parse_args()
    wrong = [each for each in given.entrypoint if "=" not in each]
    if wrong:
        parser.error(f"--entrypoint {wrong[0]}: write IMAGE=COMMAND")
    entrypoints = dict(each.split("=", 1) for each in given.entrypoint)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = Options(given.kubeconfig, given.name, given.dir.absolute(), given.certs, given.backoff, entrypoints)
    try:
        asyncio.run(Node(options).run())
    except KitError as error:
        print(f"procnode: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
