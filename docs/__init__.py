"""What the build of the site runs: formulas.py, hooks.py, pictures/. The pages are Markdown."""

import benchmarks  # noqa: F401  # an installed focaldet is found where ./focaldet is not built
