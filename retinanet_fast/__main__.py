"""``python -m retinanet_fast`` is ``retinanet-fast``."""

import sys

from retinanet_fast.cli import main

sys.exit(main())
