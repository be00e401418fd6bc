"""temporary"""

from fmm.plan import FMM, _steps
from multipoles.radial import Coulomb


def field(targets, sources, moments, order=1, tolerance=1e-6, kernel=Coulomb()):
    packed, source_order, *_ = _steps(sources, targets).moments(moments, None, None)
    plan = FMM(
        sources, targets, tolerance, source_order, order, channels=packed.shape[1], kernel=kernel
    )
    return plan.field(moments)
