"""With a GPU at hand, a module that is missing is an error, not a reason to leave tests out."""

from collections.abc import Iterator

import pytest
from gpu_state import gpu_present

if gpu_present():
    import numba.cuda  # noqa: F401
    import torch  # noqa: F401


@pytest.fixture(autouse=True)
def _kernels_run_in_the_emulator(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run what needs a GPU in the emulator, where that is asked for."""
    if not (request.config.getoption("--emulated") and request.node.get_closest_marker("gpu")):
        yield
        return
    import emulator

    with emulator.installed():
        yield
