"""Runs `python -m export`, the same as edge-export."""

from .cli import main

raise SystemExit(main())
