"""A broker without management API: its one virtual host serves every test in turn."""

from kombu import Connection

from allocation.adapters.rabbitmq import topology
from tests.servers.vhosts import Vhosts

# The exchanges and queues in which Celery lets the broker hold delayed tasks.
_DELAY_LEVELS = [f"celery_delayed_{level}" for level in range(28)]
_EXCHANGES = [topology.COMMANDS, topology.EVENTS, "celery_delayed_delivery", *_DELAY_LEVELS]


class SharedVhost(Vhosts):
    """Hands out the virtual host of `url` itself, emptied of this system's queues and exchanges."""

    def create_vhost(self) -> str:
        """The server's own URL: two at a time are the same."""
        self.delete_vhost(self.url)
        return self.url

    def delete_vhost(self, url: str) -> None:
        """Delete what this system declares; other queues stay, but hear no events any more."""
        with Connection(url) as connection, connection.channel() as channel:
            for queue in (*topology.names(), *_DELAY_LEVELS):
                channel.queue_delete(queue)
            for exchange in _EXCHANGES:
                channel.exchange_delete(exchange)
