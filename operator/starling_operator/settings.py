"""The operator's environment: read once, at start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from starling.errors import SpecError


class OperatorSettings(BaseSettings):
    """`STARLING_…` of the operator's environment, POD_NAMESPACE and POD_NAME from Kubernetes."""

    model_config = SettingsConfigDict(env_prefix="STARLING_", extra="ignore", populate_by_name=True)

    nats_url: str
    nats_creds: Path | None = None
    worker_nats_url: str = ""
    """Address for workers, where it is not the operator's own."""
    prometheus_url: str = ""
    watch_namespaces: str = ""
    """Comma separated; empty watches all."""
    worker_image: str = "starling:latest"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    http_host: str = "0.0.0.0"  # noqa: S104 - probes and scrapes come from outside the pod
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    pod_namespace: Annotated[str, Field(validation_alias=AliasChoices("POD_NAMESPACE"))] = "default"
    pod_name: Annotated[str, Field(validation_alias=AliasChoices("POD_NAME"))] = "starling-operator"

    @classmethod
    def from_environment(cls) -> OperatorSettings:
        """Raises SpecError naming the variable."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = "_".join(str(part) for part in first["loc"]).upper()
            raise SpecError(f"STARLING_{name}", first["msg"]) from None

    @property
    def namespaces(self) -> list[str]:
        """Namespaces to watch; empty means all."""
        return [name.strip() for name in self.watch_namespaces.split(",") if name.strip()]
