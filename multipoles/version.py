"""The version of the distribution that these packages came in."""

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "anisole"


def installed_version() -> str:
    """Return the version of the installed distribution; "unknown" for sources on a path."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
