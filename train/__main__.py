"""Runs `python -m train`, the same as edge-train."""

from .cli import main

raise SystemExit(main())
