"""What OpenMM-ML finds by its entry points: factories of potentials and of an embedding.

OpenMM-ML loads them while it is imported itself, so that they stand apart from `openmmml` beside
them, which needs it whole.
"""

from importlib import import_module
from typing import Any

from openmmml.mlpotential import EmbeddingFactory, MLPotentialImplFactory


class ModelPotentialFactory(MLPotentialImplFactory):
    """Makes potentials by name, for the constructor of `MLPotential`."""

    def createImpl(self, name: str, modelPath: Any = None) -> Any:
        """Return the potential of a name, a `gnn.engines.openmmml.ModelPotential`.

        Parameters
        ----------
        name : str
            ``"anisole"``, the model that ships, or ``"amp-bms"``, that of its authors.
        modelPath : path or Potential, optional
            A checkpoint in place of it.
        """
        if modelPath is None and name != "anisole":
            modelPath = name
        return import_module("gnn.engines.openmmml").ModelPotential(modelPath)


class ElectrostaticsFactory(EmbeddingFactory):
    """Makes the embedding ``"anisole"``."""

    def createEmbedding(self, name: str) -> Any:
        """Return the embedding, a `gnn.engines.openmmml.Electrostatics`; it has one name only."""
        return import_module("gnn.engines.openmmml").Electrostatics()
