"""python -m edge."""

from .cli import main

raise SystemExit(main())
