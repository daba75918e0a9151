"""The settings that both workers have, from the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from allocation.messaging import connection


class WorkerSettings(BaseSettings):
    """Fields are the variables' names in small letters, so that an error names the variable."""

    model_config = SettingsConfigDict(
        extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    allocation_state_dir: Path = Field(
        Path("var"), description="Folder of the embedded databases and broker, and of mails."
    )
    allocation_broker_url: str = Field("", description="RabbitMQ or spool://; unset: embedded.")
    allocation_log_format: Literal["console", "json"] = Field(
        "console", description="Format of log lines: `console` for people, `json` for programs."
    )
    allocation_metrics_host: str = Field(
        "127.0.0.1", description="Address that the subscribers serve their metrics on."
    )
    subscriber_patience: float = Field(
        60, ge=0, description="Seconds to wait for a missing event before processing later ones."
    )
    subscriber_keep: int = Field(
        60, ge=1, description="Days after which the record of a received event may be dropped."
    )

    @field_validator("allocation_broker_url")
    @classmethod
    def _is_usable(cls, url: str) -> str:
        connection.address(url)
        return url

    @model_validator(mode="after")
    def _default_to_the_embedded_broker(self) -> "WorkerSettings":
        self.allocation_state_dir = self.allocation_state_dir.absolute()
        if self.allocation_broker_url in ("", "spool://"):
            self.allocation_broker_url = f"spool://{self.allocation_state_dir}/spool"
        return self

    @property
    def broker_transport(self) -> str | None:
        """The transport that the URL does not name."""
        embedded = self.allocation_broker_url.startswith("spool:")
        return connection.SPOOL_TRANSPORT if embedded else None
