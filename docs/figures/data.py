"""Draw `data.png`: what `anisole data info shipped --output data.png` draws."""

from pathlib import Path

from gnn.data.checking import info


def main() -> None:
    """Write the picture beside this script."""
    info.picture(info.read_summary("shipped"), Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
