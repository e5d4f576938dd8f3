"""The programs that the cluster tests run: where their sources are pinned, and where the built ones are kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True, slots=True)
class Program:
    """One program: the Go module (a folder beside this file) that pins it, and its main package."""

    name: str
    module: str
    package: str


# In the order in which they are built: what an API server needs comes first.
PROGRAMS = (
    Program("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Program("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    Program("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Program("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Program("helm", "helm", "helm.sh/helm/v3/cmd/helm"),
)
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl")
CLUSTER = (*CONTROL_PLANE, "kube-controller-manager", "kube-scheduler")


def key(modules: Path = HERE) -> str:
    """Return 12 hex digits that change whenever a go.mod below `modules` does."""
    digest = hashlib.sha256()
    for path in sorted(modules.glob("*/go.mod")):
        digest.update(path.parent.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where built programs are kept: `STARLING_TOOLS`, or a folder of the user's cache named by `key`."""
    if given := environ.get("STARLING_TOOLS"):
        return Path(given).absolute()
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "starling" / "tools" / key()


def find(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the program by `KUBEBUILDER_ASSETS`, then the cache, then `PATH`; None when it is in none of them."""
    places = [Path(assets)] if (assets := environ.get("KUBEBUILDER_ASSETS")) else []
    for place in (*places, folder(environ)):
        if os.access(place / name, os.X_OK):
            return place / name
    found = shutil.which(name, path=environ.get("PATH"))
    return Path(found) if found else None


def missing(names: Iterable[str], environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why these programs cannot be run, and what to do about it; None when all are there."""
    absent = [name for name in names if find(name, environ) is None]
    if not absent:
        return None
    go = "`hack/tools/build` builds them" if shutil.which("go", path=environ.get("PATH")) else "Go is not installed"
    return (
        f"no {', '.join(absent)}: not in KUBEBUILDER_ASSETS ({environ.get('KUBEBUILDER_ASSETS') or 'not set'}), "
        f"{folder(environ)} or PATH; {go}"
    )


def link_flags(program: Program) -> str:
    """Return the linker's flags: no symbols, and the version that a Kubernetes program says of itself."""
    if not program.package.startswith("k8s.io/kubernetes/"):
        return "-s -w"
    version = kubernetes_version((HERE / program.module / "go.mod").read_text())
    major, minor, _ = version.split(".")
    base, client = "k8s.io/component-base/version", "k8s.io/client-go/pkg/version"
    values = {
        f"{base}.gitVersion": f"v{version}",
        f"{base}.gitMajor": major,
        f"{base}.gitMinor": minor,
        f"{client}.gitVersion": f"v{version}",
    }
    return "-s -w " + " ".join(f"-X {name}={value}" for name, value in values.items())


def kubernetes_version(go_mod: str) -> str:
    """Return the version of k8s.io/kubernetes that this go.mod asks for, such as ``1.34.4``."""
    found = re.search(r"k8s\.io/kubernetes v(\d+\.\d+\.\d+)", go_mod)
    if found is None:
        raise SystemExit("hack/tools/kubernetes/go.mod: no version of k8s.io/kubernetes in it")
    return found[1]
