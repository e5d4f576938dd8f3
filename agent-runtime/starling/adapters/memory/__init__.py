"""The store port in this process: the local runtime's store, and the ground of the simulation."""

from starling.adapters.memory.server import MemoryServer
from starling.adapters.memory.store import MemoryStore
from starling.adapters.memory.weather import Trip, Weather

__all__ = ["MemoryServer", "MemoryStore", "Trip", "Weather"]
