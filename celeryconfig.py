"""Celery's settings for the allocation worker, each with its reason."""

from allocation.adapters.rabbitmq import topology
from allocation.messaging import connection
from allocation.settings import Settings

_settings = Settings()
_on_rabbitmq = _settings.broker_transport is None

# --- the broker ---------------------------------------------------------------------------------

connection.prepare_process()
_address = connection.address(_settings.broker_url)
broker_url = _address.url
# With amqps:// certificates and names are always verified; these are the files that the URL names.
broker_use_ssl = _address.tls or None
broker_transport = _settings.broker_transport
# A retry counts as sent once the broker has confirmed it; the wait for that is limited.
broker_transport_options = (
    {"confirm_publish": True, **connection.TIME_LIMITS} if _on_rabbitmq else {}
)
# Two tries to send a retry end within the command's time limit; then it goes back to its queue.
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0, "interval_max": 1}
# A peer that vanished is noticed within two heartbeats.
broker_heartbeat = connection.HEARTBEAT if _on_rabbitmq else 0
# The worker may start before the broker, and outlives its restarts however long they take.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# A missing queue does not end the worker either: it waits for `allocation topology`.
broker_channel_error_retry = True

# --- queues -------------------------------------------------------------------------------------

# `allocation topology` declares it, and the queues of delayed retries: a worker has no right to.
task_queues = [topology.commands_queue(declared=_on_rabbitmq)]
task_default_queue = topology.COMMANDS
task_default_exchange = topology.COMMANDS
task_default_exchange_type = "topic"
task_default_routing_key = topology.COMMANDS
# A misspelt queue name is an error, not a new queue that nobody reads.
task_create_missing_queues = False

# --- messages -----------------------------------------------------------------------------------

task_serializer = "json"
# Pickle would run code that a message carries.
accept_content = ["json"]
# Outcomes are rows of the database, keyed by the task's id.
task_ignore_result = True
# Flower and other monitors see each task's states.
worker_send_task_events = True

# --- nothing lost -------------------------------------------------------------------------------

# A command is acknowledged when its transaction is committed; the inbox makes a repeat harmless.
task_acks_late = True
task_reject_on_worker_lost = True
# A command that failed for good is dead-lettered, not acknowledged.
task_acks_on_failure = False
# A command that overran its time is redelivered, up to the queue's delivery limit.
task_acks_on_timeout = False
# After a lost connection the broker redelivers the running commands: stop working on them.
worker_cancel_long_running_tasks_on_connection_loss = True
# Each process works on one batch while the next one comes in; the other commands stay in the queue
# for other workers.
worker_prefetch_multiplier = 2 * _settings.batch_size
# SQLite has one writer at a time: a second process would only wait for it.
worker_concurrency = 1 if _settings.database_url.startswith("sqlite") else None

# --- limits -------------------------------------------------------------------------------------

# A batch takes milliseconds; one that hangs is ended, and its commands are redelivered.
task_soft_time_limit = 30
task_time_limit = 60
# On SIGTERM: running commands may finish for this long, then they go back to the queue.
worker_soft_shutdown_timeout = 20
# A child that grew past this (kilobytes) is replaced between two batches.
worker_max_memory_per_child = 400_000

# --- logs ---------------------------------------------------------------------------------------

# `allocation.messaging.telemetry.logs` formats every line, Celery's own among them.
worker_hijack_root_logger = False
worker_redirect_stdouts = False
