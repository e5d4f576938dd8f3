"""Benchmarks against peers, and faults on real servers."""
