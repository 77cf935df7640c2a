"""The command line. The script ``rfbench`` and ``python -m rfbench.cli`` both end in :func:`main`."""

from __future__ import annotations

from rfbench.cli.app import build_parser, main

__all__ = ["build_parser", "main"]
