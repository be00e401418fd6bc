"""``python -m multipoles``: print the table of `multipoles.validation`."""

import sys

from multipoles.validation import main

if __name__ == "__main__":
    sys.exit(main())
