"""Follows the route table of the mesh."""

from __future__ import annotations

import logging

from starling.core import limits
from starling.core.names import MeshNames, bucket_stream, bucket_subject
from starling.core.routes import ROUTES_KEY, Routes
from starling.engine.routes_view import RoutesView
from starling.errors import DecodeError
from starling.ports.store import Store, is_removal

log = logging.getLogger(__name__)


async def watch_routes(store: Store, mesh: str, view: RoutesView) -> None:
    """Keep `view` at the newest route table until cancelled."""
    bucket = MeshNames(mesh).routes
    reader = await store.reader(bucket_stream(bucket), bucket_subject(bucket, ROUTES_KEY), after=None)
    try:
        while True:
            for message in await reader.read(64, 4 * limits.MIB):
                if is_removal(message):
                    continue
                try:
                    view.current = Routes.decode(message.data)
                    view.heard.set()
                except DecodeError:
                    log.exception("route table cannot be read; the last one stays")
    finally:
        await reader.close()
