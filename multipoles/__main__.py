"""``python -m multipoles``: print the table of `multipoles.validation` (all of it: --verbose)."""

import sys

from multipoles.validation import main

if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # pipes under Windows have no →
        sys.stdout.reconfigure(errors="replace")
    sys.exit(main(verbose="--verbose" in sys.argv[1:]))
