"""From a configuration to the model that is trained."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from gnn.data.extent import Extent, extent_of
from gnn.data.systems import Frame
from gnn.model import AMP
from gnn.potential import Potential
from gnn.training import checkpoint
from gnn.training.committee import Committee, draw_undetermined, perturb
from gnn.training.config import Config
from gnn.training.frames.loader import Frames, headers

#: Gives the extent of some frames, with the damping of a model's surroundings.
ExtentAt = Callable[[float], Extent]
#: Times what its networks made before is what a model may make that starts from a checkpoint.
_ROOM = 2.0
_SAMPLED = 100  # frames whose energies a fresh network is compared with


def build_model(
    config: Config,
    training: Frames,
    last: Path | None = None,
    isolated: Mapping[int, float] | None = None,
    member: int = 0,
    extent: ExtentAt | None = None,
    fitted: bool = True,
) -> Potential:
    """Return the model to train, seeded by the config, with a baseline for the training frames.

    Fresh, or that of the checkpoint named by ``start``, whose weights are kept while the constant
    part of its energy is fitted anew: the labels may be of another level of theory. The extent of
    the frames is noted, joined with that of earlier training. Members of a
    committee that start from one checkpoint are perturbed first, and what the training energies
    leave open of the constant part is drawn at random for each. A run to be continued has all
    that in its checkpoint `last`.

    Parameters
    ----------
    config
        The run, or that of a member.
    training
        Frames that the constant part of the energy is fitted to.
    last
        Checkpoint to go on from.
    isolated
        Energies of isolated atoms in eV by atomic number, for a fresh model.
    member
        Number of the committee's member.
    extent
        Gives the extent of the training frames for a damping. None: `extent_of`.
    fitted
        Fit the constant part to what the network adds, for which frames are read; not in a process
        that gets the weights of another one.

    Raises
    ------
    ValueError
        If a single model is to start from a committee.
    """
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    dtype = getattr(torch, config.training.dtype)
    extent = extent or partial(extent_of, training)
    if last is not None:
        return checkpoint.load_model(last).to(dtype).train()
    if config.start is None:
        model: Potential = AMP.from_config(config.model).to(dtype)
        _set_extent(model, extent)
        model.set_baseline(headers(training), isolated)
        if fitted and not isolated and (some := _some_with_energies(training)):
            # given charges act before anything is learned: a model that begins hundreds of eV off
            # learns to be without them first
            model.refit_baseline(some, warn=False)
    else:
        model = _started(config, member).to(dtype).train()
        model.domain = None  # that of other frames
        perturb(model, config.perturbation, config.training.seed)
        _set_extent(model, extent, started=True)
        if fitted:
            model.refit_baseline(training)
    if config.committee.members > 1:
        fixed = {} if config.start is not None else isolated or {}
        draw_undetermined(model, headers(training), fixed, config.training.seed)
    return model


def _some_with_energies(frames: Frames) -> list[Frame]:
    """Return at most a hundred frames or so, evenly spaced, of those that have energies."""
    labelled = [i for i, head in enumerate(headers(frames)) if head.energy is not None]
    return [frames[i] for i in labelled[:: max(1, len(labelled) // _SAMPLED)]]


def _set_extent(model: Potential, extent: ExtentAt, started: bool = False) -> None:
    """Tell a model with walls what it is trained on, beside what it was trained on before.

    Where the latter is not known, the extent stays unknown. A model that starts on frames of
    another kind may be far off there: its bounds are widened, not dropped.
    """
    if not isinstance(model, AMP) or model.border is None:
        return
    former = model.extent
    if started and former is None:
        return
    own = extent(model.damping)
    if former is None:
        model.set_extent(own)
    else:
        model.set_extent(former.joined(own), room=_ROOM)


def _started(config: Config, member: int) -> Potential:
    model = checkpoint.load_model(config.start)
    if not isinstance(model, Committee):
        return model
    members = list(model.members)
    if config.committee.members == 1:
        raise ValueError(
            f"start: {config.start} is a committee of {len(members)} models: start another "
            "committee from it (--committee), or one model from a member (member_0/best.pt)"
        )
    return members[member % len(members)]  # type: ignore[return-value]
