"""What every plan of a fast sum offers, however it sums and wherever its points lie."""

from typing import Any, Protocol


class Sum(Protocol):
    """A linear map from moments at sources to fields at targets."""

    @property
    def n_sources(self) -> int:
        """Number of sources."""

    def field(self, moments: Any, order: int | None = None) -> Any:
        """Return the field of moments at every target.

        Parameters
        ----------
        moments : array_like, shape (n_sources, [channels,] n_components(K))
            Packed moments of any order K, see `multipoles.pack`.
        order : int, optional
            Highest derivative; default that of the plan.

        Returns
        -------
        array, shape (n_targets, [channels,] n_components(order))
            In the library of the points; within the plan's tolerance at every output order, or a
            RuntimeWarning tells the error.
        """


class Plan(Sum, Protocol):
    """A sum that is planned once and applied often.

    `FMM`, `Mesh` and `Ewald` are. Code that only applies a plan should ask for this.
    """

    @property
    def n_targets(self) -> int:
        """Number of targets."""

    def transpose(self) -> "Plan":
        """Return the plan with targets and sources exchanged: the adjoint map."""

    def rebuild(self, sources: Any, targets: Any = None) -> None:
        """Go over to new positions; systems of a batch, and a cell, stay.

        Parameters
        ----------
        sources : array_like, shape (n_sources, 3)
            Where moments will be.
        targets : array_like, shape (n_targets, 3), optional
            Given if, and only if, they were when the plan was made.
        """

    def report(self) -> Any:
        """Return what was chosen, and the cost of the last evaluation; `str` is a table."""
