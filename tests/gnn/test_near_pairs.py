"""Near pairs: the counted and the tree's way against all distances."""

import numpy as np
import pytest

from gnn.operators import near_pairs as module
from gnn.operators.near_pairs import near_pairs


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("sizes", [([5], [40]), ([3, 1, 4], [20, 0, 30]), ([2, 2], [0, 0])])
def test_all_pairs_within_reach_and_no_other(tree, sizes, monkeypatch):
    if tree:
        monkeypatch.setattr(module, "_BRUTE_FORCE", -1)
    rng = np.random.default_rng(0)
    (n, m), reach = (sum(s) for s in sizes), 1.5
    targets, sources = rng.uniform(-2, 2, (n, 3)), rng.uniform(-3, 3, (m, 3))
    ends = [np.repeat(np.arange(len(s)), s) for s in sizes]
    found = near_pairs(targets, sources, *ends, reach)
    distance = np.linalg.norm(targets[:, None] - sources[None], axis=2)
    expected = np.argwhere((distance <= reach) & (ends[0][:, None] == ends[1][None]))
    assert (found.n_targets, found.n_sources) == (n, m)
    np.testing.assert_array_equal(found.pairs[np.lexsort(found.pairs.T[::-1])], expected)
    assert (np.diff(found.pairs[:, 0]) >= 0).all()
