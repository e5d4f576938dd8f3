"""Streams and buckets: what we ask of the server, and whether it kept it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from starling.adapters.nats import wire
from starling.adapters.nats.requests import ApiError, Requests
from starling.errors import MeshError, SpecError, UnknownPool, Unreachable
from starling.ports.store import BucketSpec, StreamInfo, StreamSpec

_NANOSECONDS: Final = 1_000_000_000
_DEFAULT_DUPLICATE_WINDOW: Final = 120.0
_SUBJECTS_A_PAGE: Final = 100_000
_TRY_LATER: Final = frozenset({500, 503})
_OWN_METADATA: Final = "_nats."
# The server says 500 to these as well, but asking again does not help.
_WRONG_FOR_GOOD: Final = frozenset({10052, 10074})


class Streams:
    """The JSON API for streams. Raises Unreachable, SpecError when the server cannot or did not do as asked."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def ensure(self, spec: StreamSpec) -> bool:
        """See `Store.ensure_stream`. Metadata that an existing stream has is kept, what it lacks is added."""
        return await self._ensure(_config(spec))

    async def ensure_bucket(self, spec: BucketSpec) -> None:
        """See `Store.ensure_bucket`."""
        await self._ensure(_config(spec.stream()) | {"allow_rollup_hdrs": True, "deny_delete": True})

    async def delete(self, name: str) -> None:
        """Delete; nothing happens when there is none."""
        try:
            await self._requests.api(f"STREAM.DELETE.{name}")
        except ApiError as error:
            if error.code != wire.STREAM_NOT_FOUND:
                raise _translated(name, error) from error

    async def info(self, name: str) -> StreamInfo | None:
        """Return what the stream holds, with its messages by subject; None when there is none."""
        subjects: dict[str, int] = {}
        while True:
            body = {"subjects_filter": ">", "offset": len(subjects)}
            found = await self._info(name, body)
            if found is None:
                return None
            state, config = found["state"], found["config"]
            page = state.get("subjects") or {}
            subjects.update(page)
            if not page or len(subjects) >= found.get("total", 0):
                break
        return StreamInfo(
            name=name,
            messages=state["messages"],
            size_bytes=state["bytes"],
            first_sequence=state["first_seq"],
            last_sequence=state["last_seq"],
            subjects=subjects,
            metadata=_metadata(config),
            max_messages_per_subject=_read_limit(config, "max_msgs_per_subject"),
            max_messages=_read_limit(config, "max_msgs"),
            max_bytes=_read_limit(config, "max_bytes"),
            discard_new=config.get("discard") == "new",
            duplicate_window=config.get("duplicate_window", 0) / _NANOSECONDS,
            replicas=config.get("num_replicas", 1),
            compression=config.get("compression", "none"),
            storage=config["storage"],
            time=datetime.fromisoformat(found["ts"]).timestamp(),
        )

    async def purge(self, name: str, subject: str, below: int) -> None:
        """Remove the messages of a subject with a smaller sequence."""
        if below <= 1:
            return  # the server takes 0 for "all", and there is nothing below 1
        try:
            await self._requests.api(f"STREAM.PURGE.{name}", {"filter": subject, "seq": below})
        except ApiError as error:
            raise _translated(name, error) from error

    async def remove(self, name: str, sequence: int) -> bool:
        """Remove one message; False when there is none."""
        try:
            await self._requests.api(f"STREAM.MSG.DELETE.{name}", {"seq": sequence, "no_erase": True})
        except ApiError as error:
            if error.code in wire.NO_SUCH_MESSAGE:
                return False
            raise _translated(name, error) from error
        return True

    async def check_exists(self, name: str) -> None:
        """Raise UnknownPool when JetStream says that there is no such stream, Unreachable when it says nothing."""
        if await self._info(name, None) is None:
            raise UnknownPool(f"there is no stream {name}")

    async def _info(self, name: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            return await self._requests.api(f"STREAM.INFO.{name}", body)
        except ApiError as error:
            if error.code == wire.STREAM_NOT_FOUND:
                return None
            raise _translated(name, error) from error

    async def _ensure(self, wanted: dict[str, Any]) -> bool:
        name = wanted["name"]
        existing = await self._info(name, None)
        if existing is None:
            try:
                kept = await self._requests.api(f"STREAM.CREATE.{name}", wanted)
                check_kept(kept["config"], wanted)
                return True
            except ApiError as error:
                if error.code != wire.STREAM_NAME_IN_USE:
                    raise _translated(name, error) from error
            existing = await self._info(name, None)  # somebody was faster
            if existing is None:
                raise Unreachable(f"stream {name} came and went")
        config = existing["config"]
        wanted = {field: value for field, value in wanted.items() if field != "first_seq"}
        if "first_seq" in config:
            wanted["first_seq"] = config["first_seq"]  # the server refuses to change it
        wanted = wanted | {"metadata": wanted["metadata"] | _metadata(config)}
        if not _differences(config, wanted):
            return False
        try:
            kept = await self._requests.api(f"STREAM.UPDATE.{name}", wanted)
        except ApiError as error:
            raise _translated(name, error) from error
        check_kept(kept["config"], wanted)
        return False


def _config(spec: StreamSpec) -> dict[str, Any]:
    window = spec.duplicate_window
    if window is None:
        window = min(_DEFAULT_DUPLICATE_WINDOW, spec.max_age or _DEFAULT_DUPLICATE_WINDOW)
    config: dict[str, Any] = {
        "name": spec.name,
        "subjects": list(spec.subjects),
        "retention": "limits",
        "storage": spec.storage,
        "num_replicas": spec.replicas,
        "compression": spec.compression,
        "max_msgs_per_subject": _limit(spec.max_messages_per_subject),
        "max_msgs": _limit(spec.max_messages),
        "max_bytes": _limit(spec.max_bytes),
        "max_msg_size": _limit(spec.max_message_bytes),
        "max_age": _nanoseconds(spec.max_age),
        "duplicate_window": _nanoseconds(window),
        "discard": "new" if spec.discard_new or spec.discard_new_per_subject else "old",
        "discard_new_per_subject": spec.discard_new_per_subject,
        "allow_direct": spec.direct,
        "metadata": dict(spec.metadata),
    }
    if spec.first_sequence > 1:
        config["first_seq"] = spec.first_sequence
    if spec.marker_ttl is not None:
        config |= {
            "subject_delete_marker_ttl": _nanoseconds(spec.marker_ttl),
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
        }
    return config


def _limit(value: int | None) -> int:
    return -1 if value is None else value


def _read_limit(config: dict[str, Any], field: str) -> int | None:
    value = int(config.get(field, -1))
    return value if value > 0 else None


def _nanoseconds(seconds: float | None) -> int:
    return 0 if seconds is None else round(seconds * _NANOSECONDS)


def _metadata(config: dict[str, Any]) -> dict[str, str]:
    return {k: v for k, v in (config.get("metadata") or {}).items() if not k.startswith(_OWN_METADATA)}


def _differences(config: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Fields that differ, to what the server has; a server that does not know a field leaves it out."""
    seen = config | {"metadata": _metadata(config)}
    return {
        field: seen.get(field)
        for field, value in wanted.items()
        if seen.get(field) != value and not (field not in seen and value in (False, 0, {}))
    }


def check_kept(config: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise SpecError when the server did not keep what was asked for, as older ones drop what they do not know."""
    for field, kept in _differences(config, wanted).items():
        raise SpecError(
            f"stream {wanted['name']}.{field}",
            f"asked for {wanted[field]!r}, the NATS server kept {kept!r}; Starling needs nats-server 2.11 or newer",
        )


def _translated(name: str, error: ApiError) -> MeshError:
    if error.code == wire.STREAM_NOT_FOUND:
        return UnknownPool(f"there is no stream {name}")
    if error.status in _TRY_LATER and error.code not in _WRONG_FOR_GOOD:
        return Unreachable(f"stream {name}: {error}")
    return SpecError(f"stream {name}", str(error))
