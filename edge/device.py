"""What this runs on: board, cores, clock, governor, temperature, throttling, memory, package versions.

All from files of Linux; an absent one gives None, never an error. Reading a clock can wake the processor, so callers
sample between measurements, not inside them.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
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
    """Cores this process may use: its CPU affinity, and the smallest quota of its control groups rounded up.

    systemd (`CPUQuota=`), Docker and Kubernetes put the quota into the process's own group or one above it.
    """
    cores = len(os.sched_getaffinity(0))
    for folder in _control_groups(root):
        try:
            quota, period = (_text(folder / "cpu.max") or "").split()
        except ValueError:  # control groups of version 1
            quota = _text(folder / "cpu.cfs_quota_us") or "max"
            period = _text(folder / "cpu.cfs_period_us") or "0"
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # "max" and -1 both mean no limit
            cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of this process's groups that can limit its CPU, of both versions, each up to the mount.

    /proc/self/cgroup has lines "0::/PATH" (version 2) and "4:cpu,cpuacct:/PATH" (version 1). In a container the path
    may be the host's, which is not mounted there: then its folders are absent, and the mount is the own group.
    """
    mounts = root / "sys/fs/cgroup"
    for line in [*(_text(root / "proc/self/cgroup") or "").splitlines(), "0::/", "0:cpu:/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = [*dict.fromkeys([controllers, *controllers.split(",")])]
        if "cpu" not in names and controllers:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in (mounts, mounts / "unified") if not controllers else [mounts / name for name in names]:
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])


def record(root: Path = _ROOT) -> dict[str, object]:
    """The machine and its state now, JSON-ready; None for what the files below `root` do not say.

    Clocks in MHz, memory in MB (10^6 bytes), temperature in degrees Celsius, `throttled` as the firmware's bits.
    """
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    cpu, memory = _pairs(root / "proc/cpuinfo", ":"), memory_mb(root)
    system = _pairs(root / "etc/os-release", "=").get("PRETTY_NAME")
    throttled = _number(root / "sys/devices/platform/soc/soc:firmware/get_throttled", base=16)
    bits = THROTTLE_BITS.items()
    return {
        "board": _text(root / "proc/device-tree/model") or _text(root / "sys/class/dmi/id/product_name"),
        "cpu": cpu.get("model name") or cpu.get("Model") or None,
        "architecture": platform.machine(),
        "is_64_bit": sys.maxsize > 2**32,
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(root),
        "clock_mhz": _thousandth(cpufreq / "scaling_cur_freq"),
        "clock_max_mhz": _thousandth(cpufreq / "cpuinfo_max_freq"),
        "governor": _text(cpufreq / "scaling_governor"),
        "temperature_c": _thousandth(root / "sys/class/thermal/thermal_zone0/temp"),
        "throttled": throttled,
        "throttled_reasons": None if throttled is None else [text for bit, text in bits if throttled >> bit & 1],
        "memory_mb": memory.get("MemTotal"),
        "memory_available_mb": memory.get("MemAvailable"),
        "swap_used_mb": memory["SwapTotal"] - memory["SwapFree"] if {"SwapTotal", "SwapFree"} <= set(memory) else None,
        "load_1min": round(os.getloadavg()[0], 2),
        "system": system and system.strip('"'),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def memory_mb(root: Path = _ROOT) -> dict[str, int]:
    """What the kernel says of memory (MemTotal, MemAvailable ...) in MB (10^6 bytes); empty where it says nothing."""
    amounts = ((key, value.split(" ")[0]) for key, value in _pairs(root / "proc/meminfo", ":").items())
    return {key: round(int(kib) * 1024 / 1e6) for key, kib in amounts if kib.isdigit()}


def versions() -> dict[str, str]:
    """Versions that can change a prediction: this package's and those of what it computes with."""
    import numpy
    import onnxruntime
    import PIL

    # Asking the modules themselves: importlib.metadata would add a tenth to the start of edge-infer.
    modules = {"numpy": numpy, "onnxruntime": onnxruntime, "Pillow": PIL}
    return {"fairedge": __version__, **{name: module.__version__ for name, module in modules.items()}}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _number(path: Path, *, base: int = 10) -> int | None:
    try:
        return int(_text(path) or "", base)
    except ValueError:
        return None


def _thousandth(path: Path) -> float | None:
    return None if (number := _number(path)) is None else round(number * 1e-3, 1)


def _pairs(path: Path, separator: str) -> dict[str, str]:
    """The lines "key: value" or "key=value" of a file."""
    parts = (line.partition(separator) for line in (_text(path) or "").splitlines())
    return {key.strip(): value.strip() for key, _, value in parts}
