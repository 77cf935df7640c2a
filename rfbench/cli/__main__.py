"""``python -m rfbench.cli``."""

from __future__ import annotations

import sys

from rfbench.cli import main

sys.exit(main())
