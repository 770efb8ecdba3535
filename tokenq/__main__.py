"""`python -m tokenq` (and `accelerate launch -m tokenq`) is the `tokenq` command."""

import sys

from tokenq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
