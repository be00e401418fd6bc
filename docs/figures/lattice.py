"""Draw `lattice.png`: how a mesh splits 1/r, the waves that it needs, and its window."""

import numpy as np
from _style import BLUE, INK, PALE, RED, plt, save
from scipy import special

from fmm.mesh.window import band_of, spectrum
from multipoles.prolate import prolate, share_of_radius

# what is left out on either side
ERROR = 1e-6
POINTS, HIGHEST = 6, 1.4


def band_for(error: float) -> float:
    """Return the band of the prolate splitting whose last wave has a share of the first one."""
    bands = np.arange(4, 40, 0.05)
    shares = np.array([prolate(np.array([1.0]), band)[0] for band in bands])
    return float(bands[np.argmax(shares < error)])


def draw_near(axis, eta: float, band: float) -> None:
    """Draw what is left for pairs: 1/r less the smooth part, over 1/r."""
    r = np.linspace(0, 1.25, 500)
    rest = np.where(r < 1, 1 - share_of_radius(np.minimum(r, 1), band), 0)
    axis.semilogy(r, special.erfc(eta * r), color=RED, label="Gaussian: erfc(ηr)")
    axis.semilogy(r, np.maximum(rest, 1e-99), color=BLUE, label="prolate: 1 − Φ(r/R)")
    axis.axvline(1, color=PALE, zorder=0)
    axis.set(xlim=(0, 1.25), ylim=(1e-8, 3), xlabel="r / R", title="Near part, relative to 1/r")
    axis.legend(loc="lower left")


def draw_waves(axis, eta: float, band: float) -> None:
    """Draw what waves are multiplied by, beside 4π/k²."""
    k = np.linspace(0, 36, 900)
    inside = prolate(np.minimum(k / band, 1), band)
    axis.semilogy(k, np.exp(-(k**2) / (4 * eta**2)), color=RED, label="Gaussian")
    axis.semilogy(k, np.where(k < band, inside, 1e-99), color=BLUE, label="prolate")
    axis.axhline(ERROR, color=PALE, zorder=0)
    axis.set(xlim=(0, 36), ylim=(1e-8, 3), xlabel="k R", title="Waves, relative to 4π/k²")
    axis.legend(loc="upper right")


def draw_window(axis) -> None:
    """Draw the spectra of two windows, and where aliases come from."""
    waves = np.linspace(0, 3 * np.pi, 700)
    band = band_of(POINTS, HIGHEST)
    # `spectrum` takes numbers of periods along so many points
    values = spectrum(waves / (2 * np.pi), 1, POINTS, band)
    axis.semilogy(
        waves, np.abs(np.sinc(waves / (2 * np.pi))) ** POINTS, color=RED, label="B-spline"
    )
    axis.semilogy(waves, np.abs(values / values[0]), color=BLUE, label="prolate")
    axis.axvspan(0, HIGHEST, color=PALE, alpha=0.6, lw=0)
    axis.axvspan(2 * np.pi - HIGHEST, 2 * np.pi + HIGHEST, color=RED, alpha=0.12, lw=0)
    axis.text(HIGHEST / 2, 2e-10, "wanted", ha="center", fontsize=8.5, color=INK)
    axis.text(2 * np.pi, 2e-10, "aliases", ha="center", fontsize=8.5, color=INK)
    ticks = ["0", "π", "2π", "3π"]
    axis.set_xticks(np.pi * np.arange(4), ticks)
    axis.set(
        xlim=(0, 3 * np.pi),
        ylim=(1e-10, 3),
        xlabel="wave, radians per grid point",
        title=f"Windows of {POINTS} points",
    )
    axis.legend(loc="upper right")


def main() -> None:
    """Write the picture beside this script."""
    eta, band = float(special.erfcinv(ERROR)), band_for(ERROR)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
    draw_near(axes[0], eta, band)
    draw_waves(axes[1], eta, band)
    draw_window(axes[2])
    save(figure, __file__)


if __name__ == "__main__":
    main()
