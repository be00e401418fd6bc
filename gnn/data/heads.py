"""Heads: the levels of theory of one file's frames, as MACE calls them.

Energies of two levels differ by constants that no geometry explains. So they are never mixed
unless the user names several.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from gnn.data.common import is_isolated
from gnn.data.streaming import Header
from gnn.data.systems import Frame

#: Head of the frames that name none, as MACE calls it.
DEFAULT = "Default"


def head_filter(
    frames: Iterable[Frame | Header], wanted: Sequence[str] | None, option: str
) -> Callable[[Frame | Header], bool]:
    """Return what tells whether a frame is of a head that is wanted.

    Isolated atoms that name no head belong to all of them, where all other frames name one.

    Parameters
    ----------
    frames
        All frames, of all files.
    wanted
        Names of heads; frames that name none are ``Default``. None: the only one that is there.
    option
        How to choose, for the message.

    Raises
    ------
    ValueError
        If there are several and none is chosen, or one that is wanted is not there.
    """
    frames = list(frames)
    shared = all(frame.head or is_isolated(frame.group) for frame in frames)
    counts = Counter(frame.head or DEFAULT for frame in frames if frame.head or not shared)
    told = [f"{head} ({count} frames)" for head, count in counts.items()]
    found = ", ".join(told) or "no frame with a head"
    if wanted is None and len(counts) > 1:
        raise ValueError(
            f"the frames are of {len(counts)} heads, that is levels of theory, whose labels do not "
            f"go together: {found}; choose one by {option}, or name several that are of one level"
        )
    names = counts.keys() if wanted is None else set(wanted)
    if missing := [name for name in names if name not in counts]:
        raise ValueError(f"no frame is of head {missing[0]!r} ({option}); found {found}")
    return lambda frame: (frame.head or DEFAULT) in names or (shared and not frame.head)
