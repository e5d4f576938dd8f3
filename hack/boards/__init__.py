"""Boards for Grafana: what is on them, how they are made, and how it is known that every panel shows something."""
