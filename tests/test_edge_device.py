"""The device record from a made-up /proc and /sys, and from a machine that tells nothing."""

import json

import pytest

from edge import device


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_raspberry_pi(tmp_path):
    write(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/meminfo": "MemTotal: 3884360 kB\nMemAvailable: 3000000 kB\nSwapTotal: 9 kB\nSwapFree: 9 kB\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
            "sys/class/thermal/thermal_zone0/temp": "52582\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
            "etc/os-release": 'NAME="x"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        },
    )
    record = device.record(tmp_path)
    assert record["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert (record["clock_mhz"], record["clock_max_mhz"], record["governor"]) == (600.0, 1800.0, "ondemand")
    assert record["temperature_c"] == 52.6
    assert record["throttled"] == 0x50005
    assert record["throttled_reasons"] == [
        "under-voltage",
        "throttled",
        "under-voltage has occurred",
        "throttling has occurred",
    ]
    assert (record["memory_mb"], record["swap_used_mb"]) == (3978, 0)
    assert record["system"] == "Debian GNU/Linux 12 (bookworm)"


def test_absent_sources_are_null(tmp_path):
    record = device.record(tmp_path)
    silent = ("board", "cpu", "clock_mhz", "governor", "temperature_c", "throttled", "throttled_reasons", "memory_mb")
    assert {record[name] for name in silent} == {None}
    json.dumps(record, allow_nan=False)


def test_unreadable_numbers_are_null(tmp_path):
    write(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "hot\n", "proc/meminfo": "MemTotal: much\n"})
    record = device.record(tmp_path)
    assert (record["temperature_c"], record["memory_mb"]) == (None, None)


def test_usable_cores_respects_affinity_and_quota(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert device.usable_cores(tmp_path) == 8
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert device.usable_cores(tmp_path) == 8
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "150000 100000\n"})
    assert device.usable_cores(tmp_path) == 2
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "1000 100000\n"})
    assert device.usable_cores(tmp_path) == 1


def test_usable_cores_under_control_groups_of_version_1(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    quota, period = "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "sys/fs/cgroup/cpu/cpu.cfs_period_us"
    write(tmp_path, {quota: "-1\n", period: "100000\n"})
    assert device.usable_cores(tmp_path) == 8
    write(tmp_path, {quota: "300000\n"})
    assert device.usable_cores(tmp_path) == 3


QUOTAS = [  # /proc/self/cgroup, the files of the groups, cores of eight
    ("0::/system.slice/edge.service", {"system.slice/edge.service/cpu.max": "50000 100000"}, 1),
    ("0::/a.slice/b.scope", {"a.slice/cpu.max": "250000 100000", "a.slice/b.scope/cpu.max": "max 100000"}, 3),
    ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "200000 100000", "cpu.max": "600000 100000"}, 2),
    ("0::/a/b", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "700000 100000"}, 1),
    ("0::/kubepods/pod1/0af3", {"cpu.max": "150000 100000"}, 2),  # the path is the host's
    ("0::/../../other", {"cpu.max": "300000 100000"}, 3),  # beside this container's
    ("1:name=systemd:/x\n0::/a", {"unified/a/cpu.max": "300000 100000"}, 3),  # both versions
    ("4:cpu,cpuacct:/d/c", {"cpu,cpuacct/d/c/cpu.cfs_quota_us": "50000",
                            "cpu,cpuacct/d/c/cpu.cfs_period_us": "100000"}, 1),
    ("4:cpuacct,cpu:/d/c", {"cpu/d/cpu.cfs_quota_us": "500000", "cpu/d/cpu.cfs_period_us": "100000",
                            "cpu/d/c/cpu.cfs_quota_us": "-1", "cpu/d/c/cpu.cfs_period_us": "100000"}, 5),
    ("3:memory:/m\n2:cpu:/d", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
    ("3:memory:/m", {"memory/m/cpu.max": "50000 100000"}, 8),
    ("0::/a:b", {"a:b/cpu.max": "50000 100000"}, 1),
    ("no such line\n\n0::/a", {"a/cpu.max": "fast 100000"}, 8),
]  # fmt: skip


@pytest.mark.parametrize(("groups", "files", "cores"), QUOTAS)
def test_usable_cores_respects_the_quota_of_the_own_group(groups, files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    write(tmp_path, {"proc/self/cgroup": f"{groups}\n"})
    write(tmp_path, {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()})
    assert device.usable_cores(tmp_path) == cores
