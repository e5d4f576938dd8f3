"""The `starling` command."""

from starling.cli.app import main

__all__ = ["main"]
