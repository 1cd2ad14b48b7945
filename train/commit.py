"""The commit of this source code, for everything that is to say what made it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def source_commit(folder: Path = Path(__file__).parent) -> str:
    """Commit of the checkout that a folder is of, with "+" where files below the folder differ; "unknown" in none."""
    try:
        head, status = (
            subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if status else "")
