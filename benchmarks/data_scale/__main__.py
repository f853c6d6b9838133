"""`python -m benchmarks.data_scale`."""

import sys

from benchmarks.data_scale.cli import main

sys.exit(main())
