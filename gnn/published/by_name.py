"""Models that go by a name: what they are, whose, and where their weights come from.

A name is looked up in a table and never becomes part of a path or an address.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gnn.data.elements import symbol
from gnn.potential import Potential
from gnn.published.download import Weights, content_of, where
from gnn.published.weights import AMP_BMS_ELEMENTS, load_amp_bms

_AMP_BMS_COMMIT = "935f1789d70892eab4968bc9c4b409cab1d1ae1f"


@dataclass(frozen=True)
class KnownModel:
    """A model that can be named in place of the path of a checkpoint.

    Parameters
    ----------
    name, about
        What it is called, and what it is.
    elements
        Atomic numbers that it knows.
    level
        Level of theory of the labels it was trained on, as far as that is known.
    trained_on
        What it was trained on, as far as that is known.
    licence, citation
        Of the weights.
    weights
        The file of its authors; None for the checkpoint that ships.
    build
        Makes the model of that file's content.
    """

    name: str
    about: str
    elements: tuple[int, ...]
    level: str
    trained_on: str
    licence: str
    citation: str
    weights: Weights | None = None
    build: Callable[..., Potential] | None = None

    @property
    def published(self) -> bool:
        """Whether it is a file of others, no checkpoint of this package."""
        return self.weights is not None

    def open(self) -> BinaryIO:
        """Return the content of the authors' file, fetched where it is not here yet.

        Raises
        ------
        OSError
            If it cannot be had; see `gnn.published.download.content_of`.
        """
        assert self.weights is not None  # the caller asked `published`
        return io.BytesIO(content_of(self.weights))

    def load(self) -> Potential:
        """Return the model, of weights that were checked."""
        assert self.build is not None
        return self.build(self.open())

    def symbols(self) -> str:
        """Return the elements in words."""
        return ", ".join(map(symbol, self.elements))

    def caveat(self) -> str:
        """Say what is known of the training of published weights, and what that means."""
        return (
            f"{self.name}: its authors' file does not tell what it was trained on "
            f"({self.trained_on}; level of theory: {self.level}), so nothing measures how far an "
            f"input lies from that; its energies have a zero of their own; elements other than "
            f"{self.symbols()} are refused"
        )

    def describe(self) -> list[str]:
        """Return lines that say what is known, and where the weights are."""
        facts = {
            "elements": self.symbols(),
            "level of theory": self.level,
            "trained on": self.trained_on,
            "licence": self.licence,
            "citation": self.citation,
        }
        if self.weights is None:
            facts["weights"] = "part of this package"
        else:
            facts["weights"] = f"{self.weights.megabytes}, {self.weights.url}"
            facts["here"] = where(self.weights)
        return [f"{self.name}: {self.about}", *(f"  {k:<16} {v}" for k, v in facts.items())]


KNOWN = {
    model.name: model
    for model in (
        KnownModel(
            "shipped",
            "the model that ships, and that is taken where none is named",
            (1, 6, 7, 8, 16),
            "B3LYP/6-31G*",
            "31 small molecules and ions in water and alone, of which one or two may be waters",
            "MIT, as this package",
            "see CITATION.cff",
        ),
        KnownModel(
            "amp-bms",
            "AMP-BMS, a model of biomolecules in the field of their surroundings",
            AMP_BMS_ELEMENTS,
            "not stated (parameters of its dispersion are those of ωB97M)",
            "QM/MM data of biomolecules with electrostatic embedding",
            "MIT (ETH Zurich, Riniker group)",
            "M. Thürlemann, F. Pultar, I. Gordiy, E. Ruijsenaars, S. Riniker, J. Am. Chem. Soc. "
            "2026, 148, 28133, doi:10.1021/jacs.6c00217",
            Weights(
                "amp-bms",
                "amp_bms_MIN_state_dict",
                f"https://raw.githubusercontent.com/rinikerlab/amp_bms/{_AMP_BMS_COMMIT}"
                "/source/model_weights/MIN_state_dict",
                "1b8cd28e488bf68e8a3a242cebed0eb65698e2f556516cf626d86a0a589cc151",
                1668518,
                "the weights of AMP-BMS by its authors (GitHub, rinikerlab/amp_bms), MIT licence",
            ),
            load_amp_bms,
        ),
    )
}


def find(path: Any) -> KnownModel | None:
    """Return the model that a name stands for; None for the path of a checkpoint.

    A file of that name goes first, and so does a path that is not text.
    """
    if not isinstance(path, str) or path not in KNOWN or Path(path).is_file():
        return None
    return KNOWN[path]


def published(path: Any) -> KnownModel | None:
    """Return the model that a name stands for if it is a file of others."""
    known = find(path)
    return known if known is not None and known.published else None


def known_names() -> str:
    """Return all names in words."""
    return ", ".join(KNOWN)
