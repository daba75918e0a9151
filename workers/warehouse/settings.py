"""The warehouse's settings, from the environment."""

from pydantic import Field, model_validator

from workers.settings import WorkerSettings


class Settings(WorkerSettings):
    """Reads the environment when it is built."""

    warehouse_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the warehouse's metrics; unset: none."
    )
    warehouse_database_url: str = Field("", description="Unset: SQLite in the state folder.")

    @model_validator(mode="after")
    def _default_to_sqlite(self) -> "Settings":
        if not self.warehouse_database_url:
            self.warehouse_database_url = f"sqlite:///{self.allocation_state_dir}/warehouse.db"
        return self
