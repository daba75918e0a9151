"""The notification service: `python -m workers.notification` mails people about what needs them.

`... prune` forgets events that came long ago.
"""

import typer

from allocation.messaging import garbage_collection
from allocation.messaging.command_line import AsJson, DryRun, Program

app = Program(help=__doc__)


@app.callback(invoke_without_command=True)
def consume(context: typer.Context) -> None:
    """Note mails from the events and send them, until stopped."""
    if context.invoked_subcommand:
        return
    from workers.notification import running

    running.consume()


@app.command()
def prune(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Forget events that came more than SUBSCRIBER_KEEP days ago; the mails stay."""
    from workers.notification import running

    running.prune(dry_run=dry_run, as_json=as_json)


if __name__ == "__main__":
    garbage_collection.relax()
    app(prog_name="python -m workers.notification")
