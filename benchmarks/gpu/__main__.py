import signal
import sys

from . import main

signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a running step ends, too
sys.exit(main())
