"""A warning where a distribution of others is installed into the same folder."""

import os
import re
import warnings
from pathlib import Path


def warn_of_namesakes(initialiser: str) -> None:
    """Warn of a distribution beside a package that bears the package's name.

    Parameters
    ----------
    initialiser
        ``__file__`` of the package.
    """
    package = Path(initialiser).parent
    named = re.compile(rf"{package.name}-([^-]+?)(-.*)?\.(dist|egg)-info", re.IGNORECASE)
    try:
        found = [match for name in os.listdir(package.parent) if (match := named.fullmatch(name))]
    except OSError:  # in an archive
        return
    if found:
        name = found[0][0].partition("-")[0]
        warnings.warn(
            f"{name} {found[0][1]}, a distribution of others, is installed in {package.parent} "
            f"beside anisole, whose package {package.name} takes its place: keep one of them there "
            f"(pip uninstall {name}, then pip install --force-reinstall --no-deps anisole)",
            stacklevel=3,
        )
