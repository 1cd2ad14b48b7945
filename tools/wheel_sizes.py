"""Sizes of the wheels in a folder: python tools/wheel_sizes.py FOLDER MAX_MB. Exit status 6 where the sum is larger."""

import sys
from pathlib import Path

folder, max_mb = Path(sys.argv[1]), float(sys.argv[2])
wheels = sorted(folder.glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
for wheel in wheels:
    print(f"{wheel.stat().st_size / 1e6:6.1f} MB  {wheel.name}")
total_mb = sum(wheel.stat().st_size for wheel in wheels) / 1e6
print(f"{total_mb:6.1f} MB  in all, at most {max_mb:.0f}")
sys.exit(6 if total_mb > max_mb else 0)
