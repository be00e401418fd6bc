"""What the tests of this folder share."""

import os
import sys

# threads of the simulator wait for each other by turns: short turns make it ten times faster
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    sys.setswitchinterval(1e-5)
