"""What this runs on: board, cores, clock, governor, temperature, throttling, memory, package versions.

Everything is read from files of Linux; a source that is absent gives None, never an error. Reading a clock can
wake the processor, so callers sample between measurements, not inside them.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from . import __version__

THROTTLE_BITS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage has occurred",
    17: "frequency cap has occurred",
    18: "throttling has occurred",
    19: "soft temperature limit has occurred",
}
"""Meaning of the bits of `throttled`. Source: Raspberry Pi documentation, vcgencmd get_throttled."""

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Cores this process may use: its CPU affinity, and the quota of its control group rounded up."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_cores(root)
    return max(1, cores if quota is None else min(cores, quota))


def record(root: Path = _ROOT) -> dict[str, object]:
    """The machine and its state now.

    Args:
      root: Where /proc and /sys are looked for.

    Returns:
      JSON-ready values; None for what this machine does not tell. Clocks in MHz, memory in MB (10^6 bytes),
      temperature in degrees Celsius, `throttled` as the firmware's bits.
    """
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    memory = memory_mb(root)
    throttled = _throttled(root)
    return {
        "board": _board(root),
        "cpu": _cpu(root),
        "architecture": platform.machine(),
        "is_64_bit": sys.maxsize > 2**32,
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(root),
        "clock_mhz": _scaled(cpufreq / "scaling_cur_freq", 1e-3),
        "clock_max_mhz": _scaled(cpufreq / "cpuinfo_max_freq", 1e-3),
        "governor": _text(cpufreq / "scaling_governor"),
        "temperature_c": _scaled(root / "sys/class/thermal/thermal_zone0/temp", 1e-3),
        "throttled": throttled,
        "throttled_reasons": None
        if throttled is None
        else [text for bit, text in THROTTLE_BITS.items() if throttled >> bit & 1],
        "memory_mb": memory.get("MemTotal"),
        "memory_available_mb": memory.get("MemAvailable"),
        "swap_used_mb": memory["SwapTotal"] - memory["SwapFree"] if {"SwapTotal", "SwapFree"} <= set(memory) else None,
        "load_1min": round(os.getloadavg()[0], 2),
        "system": _system(root),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def memory_mb(root: Path = _ROOT) -> dict[str, int]:
    """What the kernel says of memory (MemTotal, MemAvailable ...) in MB (10^6 bytes); empty where it says nothing."""
    values = {}
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            values[key] = round(int(number[0]) * 1024 / 1e6)
    return values


def versions() -> dict[str, str]:
    """Versions that can change a prediction: this package's and those of what it computes with."""
    import numpy
    import onnxruntime
    import PIL

    # Asking the modules themselves: importlib.metadata would add a tenth to the start of edge-infer.
    return {
        "fairedge": __version__,
        "numpy": numpy.__version__,
        "onnxruntime": onnxruntime.__version__,
        "Pillow": PIL.__version__,
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _scaled(path: Path, factor: float) -> float | None:
    text = _text(path)
    try:
        return None if text is None else round(int(text) * factor, 1)
    except ValueError:
        return None


def _cgroup_cores(root: Path) -> int | None:
    """CPU quota of the control group in whole cores, rounded up: version 2, else version 1."""
    try:
        quota, period = (_text(root / "sys/fs/cgroup/cpu.max") or "").split()
    except ValueError:
        quota = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us") or "max"
        period = _text(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us") or "0"
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):
        return None  # "max" and -1 both mean no limit
    return max(1, -(-int(quota) // int(period)))


def _board(root: Path) -> str | None:
    for name in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        if (text := _text(root / name)) is not None:
            return text
    return None


def _cpu(root: Path) -> str | None:
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip() or None
    return None


def _throttled(root: Path) -> int | None:
    text = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    try:
        return None if text is None else int(text, 16)
    except ValueError:
        return None


def _system(root: Path) -> str | None:
    for line in (_text(root / "etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return None
