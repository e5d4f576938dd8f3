"""The page of the command line says what the program says."""

from __future__ import annotations

from hack.commands import page


def test_every_command_has_its_section_with_arguments_options_and_defaults() -> None:
    text = page()
    sections = {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")}
    assert {"starling dev", "starling send", "starling dead list", "starling dead replay"} <= sections
    call = text.partition("## starling call\n")[2].partition("\n## ")[0]
    assert call.startswith("\nCall an agent and print its answer")
    assert "| `AGENT` |" in call
    assert "| `--nats` [STARLING_NATS_URL] | Address of the NATS server. (default nats://127.0.0.1:4222) |" in call
