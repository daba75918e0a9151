"""The metrics of worker, relay and inbound. No label holds an id, a sku or a batch reference."""

from collections import Counter as Tally
from collections.abc import Collection, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from allocation.adapters.rabbitmq import topology
from allocation.adapters.rabbitmq.dead_letter_queues import REASONS
from allocation.contract import registry

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class WorkerMetrics:
    """Counts decisions. A command that is redelivered is counted again."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._decided = Counter(
            "allocation_commands_decided",
            "Commands by name and outcome; failed: no worker could decide the command.",
            ["command", "outcome"],
            registry=self.registry,
        )
        _begin(self._decided, registry.COMMANDS, ("succeeded", "rejected", "failed"))
        self._retries = Counter(
            "allocation_command_retries",
            "Commands that failed and will be retried, by name.",
            ["command"],
            registry=self.registry,
        )
        _begin(self._retries, registry.COMMANDS)
        self._seconds = Histogram(
            "allocation_job_seconds",
            "Time to execute a batch of commands.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._size = Histogram(
            "allocation_job_commands",
            "Number of commands in a batch.",
            buckets=_SIZES,
            registry=self.registry,
        )
        self._lock_wait = Histogram(
            "allocation_lock_wait_seconds",
            "Time to lock the product rows of a batch.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._sent = Counter(
            "allocation_worker_sent",
            "Events that the worker published itself and the broker confirmed, by name.",
            ["name"],
            registry=self.registry,
        )
        _begin(self._sent, registry.EVENTS)
        self._left_to_relay = Counter(
            "allocation_worker_left_to_relay",
            "Events that the worker tried to publish itself, and the broker did not confirm in"
            " time: the relay publishes them.",
            registry=self.registry,
        )
        self._confirm = Histogram(
            "allocation_worker_confirm_seconds",
            "Time from publishing the events of a batch to the broker's last confirm.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._dead_letters = _dead_letters(topology.DEAD, self.registry)
        self._partitions: set[str] = set()
        self._holds = Gauge(
            "allocation_partition_held",
            "1 if this worker decides the commands of the partition, else 0.",
            ["partition"],
            multiprocess_mode="max",
            registry=self.registry,
        )
        self._holds.labels(topology.COMMANDS)

    def holds(self, partitions: Collection[str], held: Collection[str]) -> None:
        """Show which of the partitions this worker has."""
        self._partitions |= set(partitions)  # old ones stay, with the value 0
        for name in self._partitions:
            self._holds.labels(name).set(name in held)

    def decided(self, outcomes: Iterable[tuple[str, str]], seconds: float, size: int) -> None:
        """Count a batch: the name and outcome of each command that was decided."""
        for (command, outcome), count in Tally(outcomes).items():
            self._decided.labels(command, outcome).inc(count)
        self._seconds.observe(seconds)
        self._size.observe(size)

    def published(self, names: Iterable[str], left_to_relay: int, seconds: float) -> None:
        """Count the events of a batch: confirmed ones by `names`, and how many the relay gets."""
        for name, count in Tally(names).items():
            self._sent.labels(name).inc(count)
        self._left_to_relay.inc(left_to_relay)
        self._confirm.observe(seconds)

    def failed(self, command: str) -> None:
        self._decided.labels(command, "failed").inc()

    def retried(self, command: str) -> None:
        self._retries.labels(command).inc()

    def locked(self, seconds: float) -> None:
        self._lock_wait.observe(seconds)

    def dead_lettered(self, queue: str, reason: str) -> None:
        self._dead_letters.labels(queue, reason).inc()


class RelayMetrics:
    """Counts what is published. A message that is sent again is counted again."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.active = Gauge(
            "allocation_relay_active",
            "1 if this relay is the active one, 0 if it stands by.",
            registry=self.registry,
        )
        self._sent = Counter(
            "allocation_relay_sent",
            "Messages that the broker confirmed, by kind (command, event) and name.",
            ["kind", "name"],
            registry=self.registry,
        )
        _begin(self._sent, ("command",), registry.COMMANDS)
        _begin(self._sent, ("event",), registry.EVENTS)
        self.refused = Counter(
            "allocation_relay_refused",
            "Messages that the broker did not accept.",
            registry=self.registry,
        )
        self.resent = Counter(
            "allocation_relay_resent",
            "Overdue commands that were published again, because the broker held fewer commands"
            " than were pending.",
            registry=self.registry,
        )
        self.pauses = Counter(
            "allocation_relay_pauses",
            "Failures of the database or the broker after which the relay paused.",
            registry=self.registry,
        )
        self._confirm = Histogram(
            "allocation_relay_confirm_seconds",
            "Time from publishing a message to marking it as confirmed; each mark counts its"
            " oldest message.",
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def marked(self, messages: Iterable[tuple[str, str]], seconds: float) -> None:
        """Count the messages that were marked as sent, each by its kind and name."""
        for (kind, name), count in Tally(messages).items():
            self._sent.labels(kind, name).inc(count)
        self._confirm.observe(seconds)


class InboundMetrics:
    """Counts the events of other systems."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.consuming = Gauge(
            "allocation_inbound_consuming",
            "1 if the process consumes its queue, else 0.",
            registry=self.registry,
        )
        self.events = Counter(
            "allocation_inbound_events",
            "Events of other systems: accepted as commands, or refused and dead-lettered.",
            ["result"],
            registry=self.registry,
        )
        _begin(self.events, ("accepted", "refused"))
        self._dead_letters = _dead_letters(topology.INBOUND_DEAD, self.registry)

    def dead_lettered(self, queue: str, reason: str) -> None:
        self._dead_letters.labels(queue, reason).inc()


def _dead_letters(queue: str, registry: CollectorRegistry) -> Counter:
    made = Counter(
        "allocation_dead_letters",
        "Messages that this process dead-lettered, by dead-letter queue and reason.",
        ["queue", "reason"],
        registry=registry,
    )
    _begin(made, (queue,), REASONS[queue])
    return made


def _begin(counter: Counter, *values: Collection[str] | Mapping[str, object]) -> None:
    """Show 0 for every combination of labels: a first value is not seen as an increase."""
    combinations: list[tuple[str, ...]] = [()]
    for each in values:
        combinations = [(*known, value) for known in combinations for value in each]
    for labels in combinations:
        counter.labels(*labels)
