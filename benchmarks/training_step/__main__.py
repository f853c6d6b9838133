"""`python -m benchmarks.training_step`."""

import sys

from benchmarks.training_step.cli import main

sys.exit(main())
