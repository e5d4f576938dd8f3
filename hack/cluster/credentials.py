"""Certificates, tokens and kubeconfigs of one control plane, all below its folder."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from pathlib import Path

from hack.cluster.errors import MissingProgram, NotReady

MASTERS = "system:masters"
ADMIN = "admin"
CONTROLLERS = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"
GROUPS = {ADMIN: MASTERS, CONTROLLERS: MASTERS, SCHEDULER: ""}
NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
ADDRESSES = ("127.0.0.1", "10.96.0.1")
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def write_certificates(folder: Path) -> None:
    """Write an authority, one serving certificate, and the key that signs service account tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    valid = ("-days", "365")
    usage = ("-addext", "keyUsage=critical,keyCertSign,digitalSignature")
    _openssl(
        folder, "req", "-x509", *NEW_KEY, "-keyout", "ca.key", "-out", "ca.crt", *valid, "-subj", "/CN=local-ca", *usage
    )
    names = ",".join([*(f"DNS:{name}" for name in NAMES), *(f"IP:{address}" for address in ADDRESSES)])
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:false")
    serving = ("-keyout", "api.key", "-out", "api.crt", *valid, "-subj", "/CN=kube-apiserver", *signed)
    _openssl(folder, "req", "-x509", *NEW_KEY, *serving, "-addext", f"subjectAltName={names}")
    # SEC1: the API server takes no EC key in PKCS#8 here.
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key")


def write_users(folder: Path, server: str) -> dict[str, Path]:
    """Write the token file and a kubeconfig per user; return users to kubeconfigs."""
    tokens = {user: secrets.token_hex(16) for user in GROUPS}
    lines = [f'{tokens[user]},{user},{number},"{group}"\n' for number, (user, group) in enumerate(GROUPS.items())]
    _private(folder / "tokens.csv", "".join(lines))
    return {user: _kubeconfig(folder, user, token, server) for user, token in tokens.items()}


def _kubeconfig(folder: Path, user: str, token: str, server: str) -> Path:
    authority = str(folder / "certs" / "ca.crt")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "local",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": user, "namespace": "default"}}],
    }
    name = "kubeconfig" if user == ADMIN else f"{user.replace(':', '-')}.kubeconfig"
    return _private(folder / name, json.dumps(config, indent=1))


def _private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def _openssl(folder: Path, *arguments: str) -> None:
    if shutil.which("openssl") is None:
        raise MissingProgram("no openssl in PATH: it makes the API server's certificates")
    done = subprocess.run(["openssl", *arguments], capture_output=True, cwd=folder, timeout=30, check=False)
    if done.returncode:
        raise NotReady(f"openssl {arguments[0]}: {done.stderr.decode(errors='replace')[-500:]}")
