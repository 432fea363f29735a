"""``python -m farrier``."""

import sys

from farrier.cli import main

if __name__ == "__main__":
    sys.exit(main())
