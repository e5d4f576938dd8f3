"""A worker's environment and its pool.json: read once, at start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, SettingsConfigDict

from starling.core import limits
from starling.core.ids import check_agent_type
from starling.core.retry import Backoff, RetryPolicy
from starling.errors import SpecError


class WorkerSettings(BaseSettings):
    """`STARLING_…` of a worker's environment."""

    model_config = SettingsConfigDict(env_prefix="STARLING_", extra="ignore")

    mesh: str
    pool: str
    pod: str
    nats_url: str = "nats://127.0.0.1:4222"
    nats_creds: Path | None = None
    pod_ip: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    config: Path = Path("/etc/starling/pool.json")
    code: Path = Path("/etc/starling/code")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    fault: str = ""
    metrics_push: str = ""
    """URLs to push metrics to every 10 s, with commas between; "" for none."""

    @classmethod
    def from_environment(cls) -> WorkerSettings:
        """Raises SpecError naming the variable."""
        try:
            return cls()
        except ValidationError as error:
            raise _spec_error(error, "STARLING_{}", upper=True) from None


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class RetryConfig(_Model):
    """Delivery policy of a pool, in seconds."""

    attempts: Annotated[int, Field(ge=1)] = limits.ATTEMPTS
    backoff: Backoff = Backoff.EXPONENTIAL
    initial_seconds: Annotated[float, Field(ge=0)] = limits.BACKOFF_FIRST
    max_seconds: Annotated[float, Field(ge=0)] = limits.BACKOFF_CAP
    jitter: bool = True

    def policy(self) -> RetryPolicy:
        return RetryPolicy(self.attempts, self.backoff, self.initial_seconds, self.max_seconds, self.jitter)


class PassivationConfig(_Model):
    """When agents of a type leave memory; None: as their class says."""

    idle_seconds: Annotated[float, Field(gt=0)] | None = None
    max_active: Annotated[int, Field(ge=1)] | None = None


class AgentConfig(_Model):
    """One agent type of the pool: where its class is, and what the pool says over it. None: as the class says.

    entrypoint None: an installed package registers the type.
    """

    type: str
    entrypoint: str | None = None
    durability: Literal["committed", "none"] | None = None
    passivation: PassivationConfig = PassivationConfig()


class PoolConfig(_Model):
    """pool.json: what the control plane tells the workers of a pool."""

    pool: str
    shards: Annotated[int, Field(ge=1, le=limits.MAX_SHARDS)]
    incarnation: str
    version: str = ""
    """Hash of configuration and code, made by the control plane: pods of one version agree on it."""
    agents: Annotated[list[AgentConfig], Field(min_length=1)]
    delivery: RetryConfig = RetryConfig()
    drain_seconds: Annotated[float, Field(ge=0)] = limits.DRAIN
    move_wait_seconds: Annotated[float, Field(ge=0)] = limits.MOVE_WAIT
    max_concurrent_turns: Annotated[int, Field(ge=1)] = limits.MAX_CONCURRENT_TURNS
    max_active: Annotated[int, Field(ge=1)] = limits.MAX_ACTIVE
    """Agents that a pod keeps in memory at once, of all types."""

    @classmethod
    def read(cls, path: Path) -> PoolConfig:
        """Raises SpecError naming the file or the field."""
        try:
            config = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SpecError("STARLING_CONFIG", f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            raise _spec_error(error, f"{path.name}: {{}}") from None
        for agent in config.agents:
            check_agent_type(agent.type)
        return config


def _spec_error(error: ValidationError, name: str, *, upper: bool = False) -> SpecError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    return SpecError(name.format(path.upper() if upper else path), first["msg"])
