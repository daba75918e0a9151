"""The subscribers' settings, from the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from allocation.messaging import connection

SPOOL_TRANSPORT = "allocation.adapters.spool:Transport"
"""kombu loads the embedded broker by this name; nothing of it is imported here."""


class Settings(BaseSettings):
    """Read afresh whenever it is made; fields are the variables' names in small letters."""

    model_config = SettingsConfigDict(
        extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    allocation_state_dir: Path = Field(
        Path("var"), description="Folder of the embedded databases and broker, and of mails."
    )
    allocation_broker_url: str = Field("", description="RabbitMQ or spool://; unset: embedded.")
    allocation_log_format: Literal["console", "json"] = Field("console", description="Log lines.")
    allocation_metrics_host: str = Field(
        "127.0.0.1", description="Address that the subscribers serve their metrics on."
    )
    warehouse_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the warehouse's metrics; unset: none."
    )
    notification_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the notification's metrics; unset: none."
    )
    warehouse_database_url: str = Field("", description="Unset: SQLite in the state folder.")
    notification_database_url: str = Field("", description="Unset: SQLite in the state folder.")
    notification_smtp_url: str = Field(
        "",
        description="smtp://, smtp+starttls:// or smtps://user:password@host:port;"
        " unset: each mail is a file in the state folder.",
    )
    notification_from: str = Field("allocation@example.com", description="The mails' sender.")
    notification_stock_team: str = Field(
        "stock-team@example.com", description="Who hears that stock is missing."
    )
    notification_orders_team: str = Field(
        "orders-team@example.com", description="Who hears that an order moved."
    )
    subscriber_patience: float = Field(
        60, ge=0, description="Seconds to wait for an event that is missing before later ones."
    )

    subscriber_keep: int = Field(
        60, ge=1, description="Days after which the note of an event that came may be dropped."
    )

    @field_validator("allocation_broker_url")
    @classmethod
    def _can_be_used(cls, url: str) -> str:
        connection.address(url)
        return url

    @model_validator(mode="after")
    def _fill_in_the_embedded_default(self) -> "Settings":
        self.allocation_state_dir = self.allocation_state_dir.absolute()
        if self.allocation_broker_url in ("", "spool://"):
            self.allocation_broker_url = f"spool://{self.allocation_state_dir}/spool"
        for name in ("warehouse", "notification"):
            if not getattr(self, f"{name}_database_url"):
                url = f"sqlite:///{self.allocation_state_dir}/{name}.db"
                setattr(self, f"{name}_database_url", url)
        return self

    @property
    def broker_transport(self) -> str | None:
        """None where the URL says enough."""
        return SPOOL_TRANSPORT if self.allocation_broker_url.startswith("spool:") else None
