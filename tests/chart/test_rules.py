"""The recording rules compute what their names say, by Prometheus's own tester."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).parents[2] / "charts" / "starling" / "files" / "rules" / "starling.yaml"
SHARD = 'namespace="n", pool="p", pod="p-{pod}", shard="{shard}"'


def series(name: str, values: str, *, pod: int = 0, shard: int = 0, more: str = "") -> dict[str, str]:
    labels = SHARD.format(pod=pod, shard=shard) + more
    return {"series": f"{name}{{{labels}}}", "values": values}


def expect(rule: str, samples: dict[str, float]) -> dict[str, object]:
    expected = [{"labels": f"{rule}{{{labels}}}", "value": value} for labels, value in samples.items()]
    return {"expr": rule, "eval_time": "3m", "exp_samples": expected}


TURNS = ', agent_type="a", result="ok"'
FAILED = ', agent_type="a", result="dead"'
TESTS = {
    "rule_files": [str(RULES)],
    "evaluation_interval": "15s",
    "tests": [
        {
            "interval": "15s",
            "input_series": [
                # One shard works 3 s of 15, the other 6 s; the first one pod, the second another.
                series("starling_busy_seconds_total", "0+3x20"),
                series("starling_busy_seconds_total", "0+6x20", pod=1, shard=1),
                series("starling_turns_total", "0+30x20", more=TURNS),
                series("starling_turns_total", "0+15x20", more=FAILED),
                series("starling_turn_seconds_total", "0+11.25x20", more=', agent_type="a"'),
                series("starling_commits_total", "0+15x20"),
                series("starling_commit_seconds_total", "0+3x20"),
                series("starling_mailbox_lag", "7x20", more=', lane="n"'),
                series("starling_mailbox_lag", "2x20", more=', lane="u"'),
                series("starling_mailbox_lag", "1x20", pod=1, shard=1, more=', lane="n"'),
            ],
            "promql_expr_test": [
                expect(
                    "starling:shard_busy:rate1m",
                    {'namespace="n", pool="p", shard="0"': 0.2, 'namespace="n", pool="p", shard="1"': 0.4},
                ),
                expect(
                    "starling:pod_busy:rate1m",
                    {'namespace="n", pool="p", pod="p-0"': 0.2, 'namespace="n", pool="p", pod="p-1"': 0.4},
                ),
                expect("starling:shard_turns:rate1m", {'namespace="n", pool="p", shard="0"': 3}),
                expect(
                    "starling:pool_turns:rate1m",
                    {
                        'namespace="n", pool="p", agent_type="a", result="ok"': 2,
                        'namespace="n", pool="p", agent_type="a", result="dead"': 1,
                    },
                ),
                expect("starling:pool_turn_seconds:mean1m", {'namespace="n", pool="p", agent_type="a"': 0.25}),
                expect("starling:pool_commit_seconds:mean1m", {'namespace="n", pool="p"': 0.2}),
                expect(
                    "starling:shard_lag:sum",
                    {'namespace="n", pool="p", shard="0"': 9, 'namespace="n", pool="p", shard="1"': 1},
                ),
                expect("starling:pool_lag:sum", {'namespace="n", pool="p"': 10}),
            ],
        }
    ],
}


@pytest.fixture(scope="module")
def promtool() -> str:
    """Where promtool is."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool in PATH (Debian's package `prometheus` has it)")
    return found


def test_the_rules_are_valid(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 rules found" in done.stdout


def test_the_rules_compute_what_their_names_say(promtool: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(TESTS))  # JSON is YAML

    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def _fires(minutes: int, ratio: float) -> dict[str, object]:
    """What is expected of the alert at a time."""
    alert = {
        "exp_labels": {"severity": "warning", "namespace": "n", "pool": "p"},
        "exp_annotations": {
            "summary": f"Pool p keeps dead letters up to {ratio:.0%} of their bound",
            "description": (
                "At the bound the oldest are lost. Look with `starling dead list --pool p`, then replay or drop them; "
                "docs/command-line.md says how."
            ),
        },
    }
    name = "StarlingDeadLettersNearlyFull"
    return {"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": [alert] if ratio else []}


@pytest.mark.row("RT-30", part="an alert comes before the bound drops the oldest")
def test_an_alert_comes_before_the_oldest_dead_letters_go(promtool: str, tmp_path: Path) -> None:
    filling = {
        "series": 'starling_dead_letters_fill_ratio{namespace="n", pool="p", pod="p-0"}',
        "values": "0.5x10 0.9x10 0.1x5",
    }
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [filling],
                "alert_rule_test": [_fires(10, 0.0), _fires(13, 0.0), _fires(17, 0.9), _fires(23, 0.0)],
            }
        ],
    }
    file = tmp_path / "alerts.json"
    file.write_text(json.dumps(test))

    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
