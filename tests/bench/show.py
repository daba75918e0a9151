"""How far the bench is: a line that lives on a terminal, plain lines elsewhere; the table."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tests.bench.figures import Figure, shown

_WIDE = 160  # characters, where nobody says how wide it is


class Show:
    """`step` says what is being done now, `found` what came of it."""

    def __init__(self) -> None:
        self.console = Console()
        if not self.console.is_terminal:
            self.console = Console(width=_WIDE)
        self._begun = time.monotonic()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=self.console, transient=True)
        self._task = self._progress.add_task("starting")
        self._said = ""

    @contextmanager
    def alive(self) -> Iterator[None]:
        """The line moves while the block lasts."""
        if self.console.is_terminal:
            with self._progress:
                yield
        else:
            yield

    @property
    def seconds(self) -> float:
        """Since the bench began."""
        return time.monotonic() - self._begun

    def step(self, text: str) -> None:
        """What takes its time now."""
        self._said = text
        if self.console.is_terminal:
            self._progress.update(self._task, description=text)
        else:
            self.say(f"{text} ...")

    def done(self, share: float) -> None:
        """How much of the step is done, from 0 to 1."""
        if self.console.is_terminal:
            self._progress.update(self._task, description=f"{self._said} {share:.0%}")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(f"{self.seconds:4.0f} s  {text}"))

    def table(self, figures: Sequence[Figure]) -> None:
        names = ("row", "measured", "limit beside it", "ratio", "target", "")
        table = Table(*names, title="medians of the rounds (lowest..highest)", title_justify="left")
        for figure in figures:
            row = figure.row
            if figure.problem is not None:
                found = Text(figure.problem.partition("\n")[0], overflow="fold"), row.limit, ""
            else:
                measured, limit = (shown(each) for each in (figure.measured, figure.limit))
                unit = f" {row.unit}"
                found = Text(measured + unit), f"{limit}{unit}\n{row.limit}", shown(figure.ratios)
            met = Text("met", "green") if figure.met else Text("missed", "red")
            table.add_row(row.title, *found, row.target, met)
            for note in figure.notes:
                table.add_row("", Text(note, "dim"))
        self.console.print(table)
