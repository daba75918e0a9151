"""The notification service: `python -m workers.notification` mails people about stock and promises.

`... prune` deletes old records of events.
"""

import typer

from allocation.messaging import garbage_collection
from allocation.messaging.command_line import AsJson, DryRun, Program

app = Program(help=__doc__)


@app.callback(invoke_without_command=True)
def consume(context: typer.Context) -> None:
    """Make mails from events and send them, until stopped."""
    if context.invoked_subcommand:
        return
    from workers.notification import running

    running.consume()


@app.command()
def prune(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Delete the records of events that are older than SUBSCRIBER_KEEP days; mails stay."""
    from workers import retention
    from workers.notification.running import MIGRATIONS
    from workers.notification.settings import Settings

    settings = Settings()
    url, keep = settings.notification_database_url, settings.subscriber_keep
    retention.prune(url, MIGRATIONS, keep, dry_run=dry_run, as_json=as_json)


if __name__ == "__main__":
    garbage_collection.relax()
    app(prog_name="python -m workers.notification")
