"""zstd for what goes to an object store: packed by whoever has the extra `starling-mesh[zstd]`, in a thread."""

from __future__ import annotations

import asyncio
import logging
from types import ModuleType
from typing import Final

from starling.core.reference import Reference
from starling.core.routes import ZSTD
from starling.errors import ObjectLost, ObjectUnreadable

log = logging.getLogger(__name__)

LEVEL: Final = 3
"""zstd's own default: higher ones save little more of JSON and take several times as long."""
WORTH: Final = 0.9
"""Packed only if at most this share is left: what is packed already, such as an image, is stored as it is."""
IN_PLACE: Final = 1 << 20
"""Up to here it takes a few milliseconds at most, and no thread."""

_said = False


def zstandard() -> ModuleType | None:
    """Return the library, None where the extra is not installed."""
    try:
        import zstandard as library
    except ImportError:
        return None
    return library


async def packed(data: bytes) -> bytes | None:
    """Return the bytes as one zstd frame; None where that is not worth it, or the extra is not installed."""
    global _said  # noqa: PLW0603 - a process says it once
    library = zstandard()
    if library is None:
        if not _said:
            _said = True
            log.warning("large values are stored unpacked: the pool asks for zstd, install starling-mesh[zstd]")
        return None
    compress = library.ZstdCompressor(level=LEVEL).compress
    made: bytes = compress(data) if len(data) <= IN_PLACE else await asyncio.to_thread(compress, data)
    return made if len(made) <= WORTH * len(data) else None


async def unpacked(data: bytes, encoding: str, reference: Reference) -> bytes:
    """Return the bytes that were packed. Raises ObjectUnreadable, ObjectLost."""
    if encoding != ZSTD:
        raise ObjectUnreadable(f"object {reference.name} is packed as {encoding!r}: a newer Starling can read it")
    library = zstandard()
    if library is None:
        raise ObjectUnreadable(
            f"object {reference.name} is packed by zstd: install starling-mesh[zstd] where it is read; it is kept"
        )
    try:
        size = library.frame_content_size(data)
        if size != reference.size_bytes:  # else a frame could claim any memory
            raise ObjectLost(f"object {reference.name} is damaged: its frame holds {size} bytes that are not its own")
        restore = library.ZstdDecompressor().decompress
        plain: bytes = restore(data) if size <= IN_PLACE else await asyncio.to_thread(restore, data)
    except library.ZstdError as error:
        raise ObjectLost(f"object {reference.name} is damaged: {error}") from error
    return plain
