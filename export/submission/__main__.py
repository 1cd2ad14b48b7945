"""Runs `python -m export.submission`, the same as edge-submit."""

from .cli import main

raise SystemExit(main())
