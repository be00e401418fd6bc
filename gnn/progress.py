"""How far a long piece of work is: a bar on a terminal, for all commands."""

from typing import Any, Self


class Bar:
    """A progress bar of rich, shown on terminals only; elsewhere a subclass prints lines.

    Parameters
    ----------
    console : rich.console.Console
        Where it is shown.
    columns : rich.progress.ProgressColumn or str
        Before the note: a string is a format of ``task``.
    total : float, optional
        Of all steps; None where that is not known yet.
    note : str
        The text behind the bar, until `update` gives another.
    transient : bool
        Whether the bar goes away at the end.
    """

    def __init__(
        self,
        console: Any,
        *columns: Any,
        total: float | None = None,
        note: str = "",
        transient: bool = False,
    ):
        from rich.progress import Progress, TextColumn

        self.console = console
        self._bar = Progress(
            *columns,
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            transient=transient,
        )
        self._task = self._bar.add_task("", total=total, note=note)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, completed: float, note: str, total: float | None = None) -> None:
        """Show how much is done, and a note on it."""
        self._bar.update(self._task, completed=completed, note=note, total=total)


class StepBar(Bar):
    """A bar with percent and remaining time on a terminal; a line for every tenth elsewhere."""

    def __init__(self, console: Any, total: int):
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        percent = TextColumn("{task.percentage:3.0f} %")
        self._total, self._tenths = total, 0
        super().__init__(console, BarColumn(), percent, TimeRemainingColumn(), total=total)

    def show(self, done: int, note: str) -> None:
        """Show how many steps are done, and a note on them."""
        self.update(done, note)
        tenths = 10 * done // self._total
        if not self.console.is_terminal and tenths > self._tenths:
            self.console.print(f"  {100 * done // self._total:3d} %  {note}")
            self._tenths = tenths
