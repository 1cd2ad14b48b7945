"""What a Raspberry Pi 4B's kernel says of itself: the files below /proc and /sys that programs read.

Without them onnxruntime's cpuinfo would read the host's, find an x86 processor in an arm64 process, and crash.
Source: a Raspberry Pi 4 Model B Rev 1.5, 4 GB, Linux 6.1; Cortex-A72 technical reference manual, chapters 2 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator

CORES = 4
CLOCK_HZ = 1.8e9
"""Highest clock. Source: Raspberry Pi OS since 2021-11 on boards of revision 1.4 or later."""
L1_DATA = (32 * 1024, 2)
"""(bytes, ways) of a core's data cache."""
L1_INSTRUCTION = (48 * 1024, 3)
"""(bytes, ways) of a core's instruction cache."""
L2 = (1024 * 1024, 16)
"""(bytes, ways) of the cache that all cores share."""
LINE_BYTES = 64

_CPU = "sys/devices/system/cpu"
_MEMORY_KB = {
    "MemTotal": 3884832, "MemFree": 3300000, "MemAvailable": 3500000, "Buffers": 20000, "Cached": 300000,
    "SwapCached": 0, "Active": 150000, "Inactive": 200000, "SwapTotal": 0, "SwapFree": 0, "Shmem": 2000,
    "Slab": 40000, "SReclaimable": 20000,
}  # fmt: skip


def files() -> Iterator[tuple[str, str]]:
    """(path relative to the root, content) of each file."""
    yield "proc/cpuinfo", "".join(map(_cpuinfo, range(CORES))) + (
        "Revision\t: c03115\nSerial\t\t: 0000000000000000\nModel\t\t: Raspberry Pi 4 Model B Rev 1.5\n"
    )
    yield "proc/meminfo", "".join(f"{name}:{kilobytes:16} kB\n" for name, kilobytes in _MEMORY_KB.items())
    yield "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\0"
    for name in ("possible", "present", "online"):
        yield f"{_CPU}/{name}", f"0-{CORES - 1}\n"
    yield f"{_CPU}/offline", "\n"
    yield f"{_CPU}/kernel_max", "255\n"
    for core in range(CORES):
        for name, content in _core(core):
            yield f"{_CPU}/cpu{core}/{name}", f"{content}\n"


def _cpuinfo(core: int) -> str:
    return (
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    )


def _core(core: int) -> Iterator[tuple[str, object]]:
    everyone = f"0-{CORES - 1}"
    yield "regs/identification/midr_el1", "0x00000000410fd083"
    yield "cpufreq/cpuinfo_max_freq", int(CLOCK_HZ / 1000)
    yield "cpufreq/scaling_cur_freq", int(CLOCK_HZ / 1000)
    yield "cpufreq/cpuinfo_min_freq", 600000
    yield "cpufreq/scaling_governor", "performance"
    yield "topology/physical_package_id", 0
    yield "topology/cluster_id", 0
    yield "topology/core_id", core
    for name in ("core_siblings", "package_cpus", "cluster_cpus"):
        yield f"topology/{name}", "f"
        yield f"topology/{name}_list", everyone
    yield "topology/core_siblings_list", everyone
    for name in ("thread_siblings", "core_cpus"):
        yield f"topology/{name}", f"{1 << core:x}"
        yield f"topology/{name}_list", core
    caches = ((1, "Data", L1_DATA, core), (1, "Instruction", L1_INSTRUCTION, core), (2, "Unified", L2, everyone))
    for index, (level, kind, (size, ways), shared) in enumerate(caches):
        described = {
            "level": level,
            "type": kind,
            "size": f"{size // 1024}K",
            "ways_of_associativity": ways,
            "number_of_sets": size // ways // LINE_BYTES,
            "coherency_line_size": LINE_BYTES,
            "shared_cpu_list": shared,
        }
        for name, content in described.items():
            yield f"cache/index{index}/{name}", content
