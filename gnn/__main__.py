"""``python -m gnn`` is the command ``anisole``."""

import sys

from gnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
