"""Whether a timed run was disturbed: throttling, other processes, swap, and runs that differ."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter, process_time
from typing import Any

import psutil

from edge import device


class Watch:
    """Looks at the machine before and after, and says what disturbed the run."""

    def __init__(self) -> None:
        """Records the state before."""
        self.before = device.record()
        self._others_s = _busy_s() - process_time()
        self._start = perf_counter()

    def finish(self, latency: dict[str, Any]) -> dict[str, Any]:
        """The `machine`, `valid` and `reasons` parts of a results file."""
        after = device.record()
        wall = perf_counter() - self._start
        others = max(0.0, (_busy_s() - process_time() - self._others_s) / wall)
        reasons = [*_machine_reasons(self.before, after, others), *_run_reasons(latency)]
        return {
            "machine": {"before": self.before, "after": after, "other_load_cores": round(others, 2)},
            "valid": not reasons,
            "reasons": reasons,
        }


def _busy_s() -> float:
    """CPU seconds all cores of the machine have spent on anything but waiting."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _machine_reasons(before: dict[str, Any], after: dict[str, Any], others: float) -> Iterator[str]:
    if after["throttled"]:
        now = int(after["throttled"])
        if now & 0xF or now >> 16 & ~(int(before["throttled"] or 0) >> 16):
            yield f"throttled: {', '.join(after['throttled_reasons'])}"
    if after["governor"] not in (None, "performance"):
        yield f"governor is {after['governor']}, expected performance"
    if others > 0.5:
        yield f"other processes used {others:.1f} cores, expected at most 0.5"
    swapped = (after["swap_used_mb"] or 0) - (before["swap_used_mb"] or 0)
    if swapped > 10:
        yield f"{swapped} MB went to swap"


def _run_reasons(latency: dict[str, Any]) -> Iterator[str]:
    if latency["protocol"]["runs"] < 10:
        yield f"{latency['protocol']['runs']} runs, expected at least 10"
    if latency["images"] < 100:
        yield f"{latency['images']} images, expected at least 100"
    if latency["spread"] > 0.1:
        yield f"the runs differ by {latency['spread']:.0%}, expected at most 10 %"
    for name, row in latency["by_size"].items():
        if row["p99_ms"] > 3 * row["p50_ms"] and name != "medium":  # medium spans a factor of 9 in pixels by itself
            yield f"{name} images: p99 is {row['p99_ms'] / row['p50_ms']:.1f} times p50, expected at most 3"
