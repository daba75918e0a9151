"""What every measurement has: the servers, how much to do, and where to tell how far it is."""

from dataclasses import dataclass
from typing import Protocol

from tests.bench.figures import Figure, Row
from tests.bench.servers import Servers
from tests.bench.show import Show


@dataclass
class Bench:
    """One run; `end_to_end_rate` was found so far, in commands a second; 0: not measured."""

    servers: Servers
    show: Show
    rounds: int
    scale: float = 1.0
    end_to_end_rate: float = 0.0

    def commands_for(self, seconds: float, rate: float) -> int:
        """So many that a round takes about that long, whether the service is slow or fast."""
        return self.some(min(max(round(rate * seconds), 1000), 10_000))

    def some(self, number: int) -> int:
        """`number`, scaled: below 1 it only shows whether everything works."""
        return max(20, round(number * self.scale))


class Measurement(Protocol):
    """Rows that are measured together; each round measures their limits as well."""

    @property
    def rows(self) -> tuple[Row, ...]: ...

    def prepare(self) -> None: ...

    def round(self, number: int) -> None: ...

    def figures(self) -> list[Figure]:
        """After the last round; proves the books as well. Raises when they are wrong."""
        ...
