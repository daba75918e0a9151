"""The notification service's settings, from the environment."""

from pydantic import Field, model_validator

from workers.settings import WorkerSettings


class Settings(WorkerSettings):
    """Reads the environment when it is built."""

    notification_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the notification's metrics; unset: none."
    )
    notification_database_url: str = Field("", description="Unset: SQLite in the state folder.")
    notification_smtp_url: str = Field(
        "",
        description="smtp://, smtp+starttls:// or smtps://user:password@host:port;"
        " unset: each mail is a file in the state folder.",
    )
    notification_from: str = Field("allocation@example.com", description="The mails' sender.")
    notification_stock_team: str = Field(
        "stock-team@example.com", description="Recipient of mails about missing stock."
    )
    notification_orders_team: str = Field(
        "orders-team@example.com", description="Recipient of mails about orders that moved."
    )

    @model_validator(mode="after")
    def _default_to_sqlite(self) -> "Settings":
        if not self.notification_database_url:
            url = f"sqlite:///{self.allocation_state_dir}/notification.db"
            self.notification_database_url = url
        return self
