"""One class to JSON and back: strict, and only when the other side gets an equal value of the same class.

Encoding reads back what it wrote. That costs a microsecond for a small message, and it is the only check that finds
everything at the sender: pydantic's own serializer lets None pass for any field, picks the first of two look-alike
classes in a union, and cuts a subclass down to the fields of the annotation. Left out only where it cannot fail:
`starling.certain`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic import BaseModel, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator, from_json, to_json
from pydantic_core.core_schema import CoreConfig

from starling.certain import certain, shareable
from starling.errors import DecodeError, SpecError, TooLarge

_CONFIG: Final = CoreConfig(
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="constants",
    ser_json_timedelta="iso8601",
    ser_json_temporal="iso8601",
    serialize_by_alias=True,
)
"""Laid over every class's own configuration, on the wire only: with pydantic's defaults these kinds are lost."""

_NOT_SCHEMAS: Final = frozenset({"cls", "config", "default", "expected", "members", "metadata"})
_BY_LABEL: Final = frozenset({"fields", "choices"})
_MAX_PROBLEMS: Final = 3


class Codec:
    """Encodes and decodes the values of one annotation. limit: largest body in bytes, None for no limit."""

    content_types: Sequence[str] = ("application/json",)
    """Names of what it reads; a body without one is taken to be that."""

    __slots__ = ("_is_certain", "_is_shareable", "_read", "_write", "cls", "limit", "name")

    def __init__(self, name: str, cls: Any, *, limit: int | None) -> None:
        self.name = name
        self.cls = cls
        self.limit = limit
        self._write: Callable[..., bytes] | None = None
        self._read: Callable[..., Any] | None = None
        self._is_certain: Callable[[Any, bytes], bool] | None = None
        self._is_shareable = False
        self._build(may_wait=True)

    def _build(self, *, may_wait: bool) -> None:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(self.cls)
            if not adapter.pydantic_complete:
                if may_wait:
                    return  # it names a class that is not defined yet: tried again on first use
                adapter.rebuild(force=True)
        except (PydanticUndefinedAnnotation, PydanticUserError) as error:
            raise SpecError(self.name, f"pydantic cannot take it: {error}") from error
        schema = overlaid(adapter.core_schema, _CONFIG)
        # without prebuilt parts: those were made with each class's own configuration
        self._write = SchemaSerializer(schema, _CONFIG, _use_prebuilt=False).to_json
        self._read = SchemaValidator(schema, _CONFIG, _use_prebuilt=False).validate_json
        self._is_certain = certain(self.cls, adapter.core_schema)
        self._is_shareable = self._is_certain is not None and shareable(self.cls)

    def dump(self, value: Any) -> bytes:
        """Raises DecodeError naming the field, TooLarge."""
        return self._checked(value, copied=False)[0]

    def copied(self, value: Any) -> tuple[bytes, Any]:
        """Return the body, and the value as whoever reads it gets it: what is done to one is not seen in the other.

        Raises as `dump`.
        """
        return self._checked(value, copied=True)

    def _checked(self, value: Any, *, copied: bool) -> tuple[bytes, Any]:
        """Return the body, and the value as it was read back; None if it was not and no copy is wanted."""
        if self._write is None or self._read is None:
            self._build(may_wait=False)
            return self._checked(value, copied=copied)
        back = None
        try:
            body = self._write(value, warnings=False)
            needs_copy = copied and not self._is_shareable
            is_certain = not needs_copy and self._is_certain is not None and self._is_certain(value, body)
            if is_certain and self._is_shareable:
                back = value
            elif not is_certain:
                back = self._read(body, strict=True)
                if back != value and (lost := difference(value, back, self.name)):
                    raise DecodeError(lost)
        except (PydanticSerializationError, ValidationError) as error:
            raise DecodeError(_explained(self.name, self.cls, value, error)) from error
        if self.limit is not None and len(body) > self.limit:
            raise TooLarge(f"{self.name} has {len(body)} bytes, at most {self.limit} fit into a message")
        return body, back

    def written(self, value: Any) -> bytes:
        """Return what `dump` would, without its checks: to see whether a value has changed. Raises DecodeError."""
        if self._write is None:
            self._build(may_wait=False)
            return self.written(value)
        try:
            return self._write(value, warnings=False)
        except PydanticSerializationError as error:
            raise DecodeError(_explained(self.name, self.cls, value, error)) from error

    def load(self, body: bytes) -> Any:
        """Raises DecodeError naming the field."""
        if self._read is None:
            self._build(may_wait=False)
            return self.load(body)
        try:
            return self._read(body, strict=True)
        except ValidationError as error:
            raise DecodeError(_problems(self.name, error)) from error


class PlainCodec(Codec):
    """For one plain JSON type; what a list or dict holds must be plain JSON as well."""

    __slots__ = ()

    def _build(self, *, may_wait: bool) -> None:
        pass

    def dump(self, value: Any) -> bytes:
        return self.copied(value)[0]

    def copied(self, value: Any) -> tuple[bytes, Any]:
        try:
            wrong = _not_plain(value, self.name)
        except RecursionError:
            wrong = f"{self.name}: nested too deeply, or holds itself"
        if wrong:
            raise DecodeError(wrong)
        try:
            body = to_json(value, inf_nan_mode="constants")
            back = from_json(body)
        except (PydanticSerializationError, ValueError) as error:
            raise DecodeError(f"{self.name}: {error}") from error
        if self.limit is not None and len(body) > self.limit:
            raise TooLarge(f"{self.name} has {len(body)} bytes, at most {self.limit} fit into a message")
        return body, back

    def load(self, body: bytes) -> Any:
        try:
            value = from_json(body)
        except ValueError as error:
            raise DecodeError(f"{self.name}: {error}") from error
        if type(value) is not self.cls:
            raise DecodeError(f"{self.name}: the body holds a {type(value).__name__}")
        return value


def overlaid(schema: Any, config: CoreConfig) -> Any:
    """Return the core schema with `config` laid over that of every class in it; the input is unchanged."""
    if isinstance(schema, dict):
        made = {key: _overlaid_part(key, part, config) for key, part in schema.items()}
        if made.get("type") in ("model", "dataclass", "typed-dict"):
            made["config"] = {**(schema.get("config") or {}), **config}
        return made
    if isinstance(schema, (list, tuple)):
        return type(schema)(overlaid(part, config) for part in schema)
    return schema


def _overlaid_part(key: str, part: Any, config: CoreConfig) -> Any:
    if key in _NOT_SCHEMAS:
        return part
    if key in _BY_LABEL and isinstance(part, dict):
        return {label: overlaid(inner, config) for label, inner in part.items()}
    return overlaid(part, config)


def difference(sent: Any, back: Any, path: str) -> str | None:
    """Say where what came back is not what was sent; None when both are the same. NaN is the same as NaN."""
    if dataclasses.is_dataclass(sent) or isinstance(sent, BaseModel):
        if type(sent) is not type(back):
            return f"{path}: a {type(sent).__name__} would arrive as a {type(back).__name__}; use a discriminated union"
        sent, back = _fields(sent), _fields(back)
    if isinstance(sent, dict) and isinstance(back, dict) and sent.keys() == back.keys():
        pairs = [(f"{path}.{key}", item, back[key]) for key, item in sent.items()]
    elif isinstance(sent, (list, tuple)) and type(sent) is type(back) and len(sent) == len(back):
        pairs = [(f"{path}.{n}", item, other) for n, (item, other) in enumerate(zip(sent, back, strict=True))]
    elif sent == back or (sent != sent and back != back):
        return None  # only NaN differs from itself
    else:
        return f"{path}: a {type(sent).__name__} does not arrive as it was sent, but as another {type(back).__name__}"
    return next((lost for path, item, other in pairs if (lost := difference(item, other, path))), None)


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        names = [*type(value).model_fields, *(value.model_extra or ()), *(value.__pydantic_private__ or ())]
    else:
        names = [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name, None) for name in names}


def _not_plain(value: Any, path: str) -> str | None:
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                return f"{path}: a key is a {type(key).__name__}, plain JSON has str keys only"
            if wrong := _not_plain(item, f"{path}.{key}"):
                return wrong
    elif kind is list:
        return next((wrong for n, item in enumerate(value) if (wrong := _not_plain(item, f"{path}.{n}"))), None)
    elif value is not None and kind not in (str, int, float, bool):
        return f"{path}: a {kind.__name__} is no plain JSON; put it into a field of a model or dataclass"
    return None


def _explained(name: str, cls: Any, value: Any, error: Exception) -> str:
    """Name the field: look at the Python values themselves, since the text of a failed write does not say where."""
    again = CoreConfig(revalidate_instances="always")
    try:
        SchemaValidator(overlaid(TypeAdapter(cls).core_schema, again), again, _use_prebuilt=False).validate_python(
            value, strict=True
        )
    except ValidationError as found:
        return _problems(name, found)
    if isinstance(error, ValidationError):
        return _problems(name, error)
    return f"{name}: {' '.join(str(error).split())}"


def _problems(name: str, error: ValidationError) -> str:
    """One clause a field, without the values: they may be secret."""
    found = error.errors(include_url=False, include_context=False)
    clauses = [
        f"{'.'.join((name, *map(str, one['loc'])))}: "
        + ("is missing" if one["type"] == "missing" else f"{one['msg']}, not {type(one['input']).__name__}")
        for one in found[:_MAX_PROBLEMS]
    ]
    return "; ".join(clauses)
