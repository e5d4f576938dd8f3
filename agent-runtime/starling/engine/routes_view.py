"""The route table as last heard: one place that senders look at and a watcher writes to."""

from __future__ import annotations

import asyncio

from starling.core.routes import Routes


class RoutesView:
    """current: the newest table; heard: set once there was one."""

    def __init__(self, routes: Routes | None = None) -> None:
        self.current = routes if routes is not None else Routes()
        self.heard = asyncio.Event()
