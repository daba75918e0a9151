"""A small Celery application on the embedded broker; its task writes a line."""

import os
from pathlib import Path

from celery import Celery

app = Celery("spool_app", broker=f"spool://{os.environ['SPOOL_FOLDER']}")
app.conf.broker_transport = "allocation.adapters.spool:Transport"
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
app.conf.worker_prefetch_multiplier = 1


@app.task(name="note")
def note(number: int) -> None:
    """Write the number, as one atomic append."""
    with Path(os.environ["SPOOL_OUTPUT"]).open("a") as file:
        file.write(f"{number}\n")
