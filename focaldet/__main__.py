"""`python -m focaldet`: the same as the command `focaldet`."""

import sys

from .cli import main

sys.exit(main())
