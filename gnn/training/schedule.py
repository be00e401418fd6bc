"""How long a run lasts, and its learning rate on the way."""

import math

from gnn.training.config import TrainingConfig


def learning_rate(settings: TrainingConfig, step: int, progress: float) -> float:
    """Return the rate of a step; `progress` runs from 0 to 1 over the whole training.

    Progress is by steps or, where time is limited, by time if that is further, so that a run cut
    short by the clock has still annealed.
    """
    high, low = settings.learning_rate, settings.min_learning_rate
    progress = min(max(progress, 0.0), 1.0)
    if settings.schedule == "cosine":
        rate = low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))
    elif settings.schedule == "exponential":
        rate = high * (max(low, 1e-12) / high) ** progress
    else:
        rate = high
    return rate * min(1.0, (step + 1) / max(settings.warmup_steps, 1))


def share_of_time(settings: TrainingConfig, elapsed: float) -> float:
    """Return how much of the time limit is used up; 0 without a limit."""
    return 0.0 if settings.time_limit is None else elapsed / settings.time_limit


def reasons_to_end(settings: TrainingConfig, epoch: int, elapsed: float, stale: int) -> list[str]:
    """Return in words what of a run is used up: epochs, time or patience; none while it goes on."""
    reasons = []
    if epoch >= settings.epochs:
        reasons.append(f"{epoch} epochs are done (training.epochs: {settings.epochs})")
    if settings.time_limit is not None and elapsed >= settings.time_limit:
        used = f"{elapsed:.0f} s are used (training.time_limit: {settings.time_limit:g})"
        reasons.append(used)
    if settings.patience is not None and stale >= settings.patience:
        reasons.append(
            f"{stale} validations brought no improvement (training.patience: {settings.patience})"
        )
    return reasons
