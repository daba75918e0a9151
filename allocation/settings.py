"""Settings, from environment variables called ALLOCATION_<NAME>."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from allocation.adapters.rabbitmq import permissions
from allocation.messaging import connection


class Settings(BaseSettings):
    """Read afresh whenever it is made; a value that can't be used raises and names its variable."""

    model_config = SettingsConfigDict(
        env_prefix="ALLOCATION_", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    state_dir: Path = Field(
        Path("var"), description="Folder of the embedded database and broker, and of written mails."
    )
    database_url: str = Field(
        "", description="PostgreSQL or SQLite; unset: allocation.db in the state folder."
    )
    broker_url: str = Field(
        "",
        description="RabbitMQ (amqp://, amqps://) or the embedded broker (spool://);"
        " unset: embedded.",
    )
    broker_users: str = Field(
        "",
        description="Users that `allocation topology` creates, with the permissions of their"
        " roles: worker:password relay:password and so on.",
    )
    partitions: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Queues among which `allocation topology` divides the commands, by sku; see"
        " scaling out. Unset: as many as there are, at first 1.",
    )
    broker_management_url: str = Field(
        "",
        pattern="^(https?://.*)?$",
        description="RabbitMQ's management API, which creates them; unset: port 15672 of the"
        " broker.",
    )
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(5005, ge=1, le=65535, description="Port that the API listens on.")
    api_key: str = Field(
        "", description="An API key with all scopes, sent as `Authorization: Bearer ...`."
    )
    session_secret: str = Field(
        "",
        pattern="^(.{16,})?$",
        description="Signs the session cookies; at least 16 characters; unset: derived from the"
        " API key, or generated at each start.",
    )
    rate_limit: int | None = Field(
        None,
        ge=0,
        description="Requests per second that each API process accepts from one caller; 0: no"
        " limit; unset: 1000 beyond loopback, no limit on loopback.",
    )
    max_outbox_age: float = Field(
        30,
        gt=0,
        description="Seconds that the relay may be behind before the API refuses new commands.",
    )
    max_pending: int = Field(
        100_000, ge=1, description="Commands that may be pending before the API refuses new ones."
    )
    resend_after: float = Field(
        300,
        gt=0,
        description="Seconds that a command may be pending before it counts as overdue; the relay"
        " then sends it again if the broker has lost it.",
    )
    api_workers: int = Field(2, ge=1, description="Processes that serve the API.")
    api_threads: int = Field(8, ge=1, description="Requests that each of them works on at once.")
    api_streams: int = Field(
        20, ge=0, description="Event streams that each of them serves at once, in addition."
    )
    api_waits: int = Field(
        300,
        ge=0,
        description="Requests that wait in each of them at once for outcomes (`Prefer: wait`), in"
        " addition; one more is answered 202 at once.",
    )
    batch_size: int = Field(200, ge=1, description="Maximum number of commands in a batch.")
    linger: float = Field(
        0.002,
        ge=0,
        le=1,
        description="Seconds that commands which came together wait for others while no batch is"
        " running; a command alone does not wait.",
    )
    gather_size: int | None = Field(
        None, ge=1, description="The former name of ALLOCATION_BATCH_SIZE, until the next release."
    )
    gather_wait: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The former name of ALLOCATION_LINGER, until the next release.",
    )
    publish_directly: bool = Field(
        True,
        description="Whether the workers publish events themselves after the commit, on RabbitMQ;"
        " the relay then publishes only what they could not. Otherwise it publishes all events.",
    )
    keep_events: int = Field(
        30, ge=1, description="Days after which a published event may be dropped."
    )
    keep_commands: int = Field(
        30, ge=1, description="Days after which a decided command may be dropped."
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Address that worker, relay and inbound serve their metrics on."
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of the metrics of worker, relay or inbound; unset: no metrics are"
        " served. `allocation up` gives each process its own port, counting up from this one.",
    )
    flower_port: int = Field(5555, ge=1, le=65535, description="Port of Flower in `allocation up`.")
    flower_link: str = Field(
        "",
        pattern="^(https?://.*)?$",
        description="URL of Flower for links; unset: its port on the page's host.",
    )
    broker_link: str = Field(
        "",
        pattern="^(https?://.*)?$",
        description="URL of RabbitMQ's management page for links; unset: port 15672 of the page's"
        " host.",
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Format of log lines: `console` for people, `json` for programs."
    )
    timezone: str = Field(
        "UTC",
        description="The shop's time zone, an IANA name such as Europe/Berlin: in it days begin"
        " and end, for ETAs and best-before days.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level of the log lines that are written."
    )

    @field_validator("broker_url")
    @classmethod
    def _can_be_used(cls, url: str) -> str:
        connection.address(url)
        return url

    @field_validator("broker_users")
    @classmethod
    def _are_known(cls, users: str) -> str:
        permissions.parse(users)
        return users

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is no IANA name of a time zone, such as Europe/Berlin") from None
        return name

    @property
    def calendar(self) -> ZoneInfo:
        """The time zone in which the shop's days begin."""
        return ZoneInfo(self.timezone)

    @model_validator(mode="after")
    def _take_former_names(self) -> "Settings":
        # Not aliases of one field: an error is to name the variable that was set.
        if self.gather_size is not None and "batch_size" not in self.model_fields_set:
            self.batch_size = self.gather_size
        if self.gather_wait is not None and "linger" not in self.model_fields_set:
            self.linger = self.gather_wait
        return self

    @model_validator(mode="after")
    def _fill_in_the_embedded_default(self) -> "Settings":
        self.state_dir = self.state_dir.absolute()
        self.database_url = self.database_url or f"sqlite:///{self.state_dir}/allocation.db"
        if self.broker_url in ("", "spool://"):
            self.broker_url = f"spool://{self.state_dir}/spool"
        if (self.partitions or 1) > 1 and self.broker_transport is not None:
            raise ValueError("ALLOCATION_PARTITIONS needs RabbitMQ: set ALLOCATION_BROKER_URL")
        return self

    @property
    def broker_transport(self) -> str | None:
        """The name by which kombu loads the embedded transport; None where the URL says enough."""
        return connection.SPOOL_TRANSPORT if self.broker_url.startswith("spool:") else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
