"""The chart, rendered by a real Helm; without one these tests are skipped with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # at the end: nothing of ours may hide a library
    sys.path.append(str(ROOT))

from hack.tools.builder import wait_for  # noqa: E402
from hack.tools.programs import find, missing  # noqa: E402

CHART = ROOT / "charts" / "starling"
Document = dict[str, Any]
Render = Callable[..., list[Document]]


class RenderFailed(Exception):
    """Helm refused the values; the text is its reason."""


@pytest.fixture(scope="session")
def helm() -> Path:
    """Where Helm is."""
    wait_for(["helm"], float(os.environ.get("STARLING_TOOLS_WAIT") or 0))
    found = find("helm")
    if found is None:
        pytest.skip(str(missing(["helm"])))
    return found


@pytest.fixture
def render(helm: Path, tmp_path: Path) -> Render:
    """Return the documents of the chart with these values; raises RenderFailed."""

    def rendered(values: Document, *, namespace: str = "mesh") -> list[Document]:
        file = tmp_path / "values.json"
        file.write_text(json.dumps(values))
        command = [str(helm), "template", "trial", str(CHART), "--namespace", namespace, "--values", str(file)]
        # What Helm takes the cluster for when there is none.
        command += ["--kube-version", "1.34.0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RenderFailed(done.stderr)
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    rendered.failure = RenderFailed  # type: ignore[attr-defined]
    return rendered
