"""``python -m skesm`` is the command ``skesm``."""

import sys

from skesm.cli import main

sys.exit(main())
