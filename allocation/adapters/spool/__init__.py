"""The embedded broker. kombu loads it by the name `allocation.adapters.spool:Transport`."""

from allocation.adapters.spool.transport import Transport as Transport
