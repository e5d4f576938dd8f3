"""Faults on real servers and real processes, under a load whose every effect is counted."""
