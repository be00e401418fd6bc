"""Whether the packages that this one needs are those that came along, and not namesakes.

PyPI has distributions of others that install a ``multipoles`` and an ``fmm``. What is checked is
not imported; importing this file, which is the same in `fmm` and in `gnn`, is the check.
"""

from importlib.util import find_spec

_MARK = b"__distribution__"  # what the packages of this distribution have in their __init__


def _check(name: str) -> None:
    """Refuse to go on with a namesake.

    Raises
    ------
    ImportError
        If Python finds another package, or none; says which file it is, and what to do.
    """
    found = find_spec(name)
    place = found.origin if found is not None else None
    try:
        if place and _MARK in found.loader.get_data(place):  # type: ignore[union-attr]
            return
    except (AttributeError, OSError):  # a program frozen into one file: nothing to be seen
        return
    raise ImportError(
        f"expected the package {name} of the distribution anisole, but Python finds "
        f"{place or 'none'}: rename that file, or uninstall what it belongs to "
        f"(pip uninstall {name}), then pip install --force-reinstall --no-deps anisole",
        name=name,
        path=place,
    )


for _name in {"multipoles", "fmm"} - {__package__}:
    _check(_name)
