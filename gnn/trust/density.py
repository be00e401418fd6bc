"""Where the last node features of one element were in training, and how far others are off."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gnn.trust.nearest import nearest_points

Array = NDArray[np.float64]

_COMPONENTS = 12  # principal components that are kept
_POINTS = 300  # atoms that are kept
_FITTED = 2000  # atoms that a density is fitted to
_NEIGHBOURS = 10  # atoms that count as near each other
_FLOOR = 1e-3  # smallest variance that is resolved, relative to the largest
_EDGE = 0.995  # share of atoms of other runs that are within …
_MARGIN = 1.25  # … the edge divided by this


@dataclass(frozen=True, eq=False)
class Density:
    """Some of the atoms of one element that a model was trained on, by their node features.

    Features are whitened: differences of atoms that are near each other have variance one along
    each of the principal axes. What the axes leave out counts by its length.

    Parameters
    ----------
    mean
        Mean of the features, (F,).
    axes
        Principal axes, columns of length one, (F, K).
    scales
        Standard deviations along the axes, and of the length of the rest, (K + 1,).
    points
        Whitened features of the atoms that are kept, (M, K + 1).
    edge
        Distance to the nearest of them that counts as the edge of what was trained on.
    """

    mean: Array
    axes: Array
    scales: Array
    points: Array
    edge: float

    def distance(self, features: Array) -> Array:
        """Return the distance of atoms to those of training, (n,); 1 is the edge.

        Parameters
        ----------
        features
            Last node features of atoms of the element, (n, F).
        """
        found = nearest_points(features, self.mean, self.axes, self.scales, self._points)
        distances: Array = found / self.edge
        return distances

    @cached_property
    def _points(self) -> Array:
        """The points with one row for each axis, so that loops over points are contiguous."""
        return np.ascontiguousarray(self.points.T)

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: value if name == "edge" else torch.tensor(value, dtype=torch.float32)
            for name, value in values.items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return what `state` describes."""
        arrays = {k: v.double().numpy() for k, v in state.items() if k != "edge"}
        return cls(**arrays, edge=state["edge"])


def density_of(features: Array, groups: NDArray[np.int64], seed: int = 0) -> Density:
    """Return the density of atoms of one element.

    The edge is how far atoms are from the kept atoms of *other* groups: frames of one run resemble
    each other, and distances within a run would be too small a measure for a new run.

    Parameters
    ----------
    features
        Last node features, (n, F), of at least one atom.
    groups
        Run that each atom comes from, (n,).
    seed
        Of the choice of atoms, where there are many.
    """
    rng = np.random.default_rng(seed)
    if len(features) > _FITTED:
        chosen = np.sort(rng.choice(len(features), _FITTED, replace=False))
        features, groups = features[chosen], groups[chosen]
    mean = features.mean(axis=0)
    variances, axes = np.linalg.eigh(_local_covariance(features))
    variances, axes = variances[::-1][:_COMPONENTS], axes[:, ::-1][:, :_COMPONENTS].copy()
    tiny = np.finfo(np.float32).eps * float((features**2).mean()) + np.finfo(np.float32).tiny
    scales = np.sqrt(np.append(variances + _FLOOR * variances[0], 0.0) + tiny)
    rest = _whitened(features, mean, axes, np.ones(len(scales)))[:, -1]
    scales[-1] = np.sqrt((rest**2).mean() + tiny)
    points = _whitened(features, mean, axes, scales)
    kept = _spread_out(points)
    distances = cdist(points, points[kept])
    apart = groups[:, None] != groups[kept]
    apart |= ~apart.any(axis=1, keepdims=True) & (np.arange(len(points))[:, None] != kept)
    nearest = np.where(apart, distances, np.inf).min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    edge = _MARGIN * float(np.quantile(nearest, _EDGE)) if len(nearest) else 0.0
    found = Density(mean, axes, scales, points[kept], max(edge, 1.0))
    return Density.from_state(found.state())  # rounded as in a file


def _whitened(features: Array, mean: Array, axes: Array, scales: Array) -> Array:
    """Return coordinates along the axes and the length of the rest, all in their scales."""
    centred = features - mean
    along = centred @ axes
    rest = np.linalg.norm(centred - along @ axes.T, axis=1)
    return np.column_stack([along, rest]) / scales


def _local_covariance(features: Array) -> Array:
    """Return the covariance of differences between atoms that are near each other, (F, F)."""
    if len(features) < 2:
        return np.zeros((features.shape[1],) * 2)
    distances = cdist(features, features, "sqeuclidean")
    np.fill_diagonal(distances, np.inf)
    count = min(_NEIGHBOURS, len(features) - 1)
    near = np.argpartition(distances, count - 1, axis=1)[:, :count]
    differences = (features[:, None] - features[near]).reshape(-1, features.shape[1])
    covariance: Array = differences.T @ differences / (2 * len(differences))
    return covariance


def _spread_out(points: Array) -> NDArray[np.int64]:
    """Return indices of points far from each other: each is the farthest from those before it."""
    chosen = [int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    distances = cdist(points, points[chosen])[:, 0]
    while len(chosen) < _POINTS and distances.max() > 0:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, cdist(points, points[chosen[-1:]])[:, 0])
    return np.array(chosen)
