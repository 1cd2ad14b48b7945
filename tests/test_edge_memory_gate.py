"""The memory plan and the gate for large images."""

import threading
import time

import pytest

from edge.memory_gate import BASE_BYTES, FREE_BYTES, GATE_BYTES, MemoryGate, MemoryPlan, plan_memory


def test_gate_lets_small_images_pass_and_large_ones_wait():
    gate = MemoryGate(limit_bytes=2 * FREE_BYTES)
    order = []

    def decode(name, num_bytes):
        with gate.image() as admit:
            admit(num_bytes)
            order.append(name)

    with gate.image() as admit:
        admit(2 * FREE_BYTES)
        waiting = threading.Thread(target=decode, args=("large", FREE_BYTES))
        waiting.start()
        decode("small", FREE_BYTES - 1)
        time.sleep(0.05)
        assert order == ["small"]
    waiting.join(5)
    assert order == ["small", "large"]


def test_gate_admits_one_that_is_larger_than_the_limit_and_survives_failures():
    gate = MemoryGate(limit_bytes=FREE_BYTES)
    for _ in range(2):
        with pytest.raises(RuntimeError), gate.image() as admit:
            admit(100 * FREE_BYTES)
            raise RuntimeError


def test_memory_is_divided_between_workers_and_large_images():
    mib = 1 << 20
    assert plan_memory(4) == MemoryPlan(4, GATE_BYTES, False)
    assert plan_memory(4, available_bytes=400 * mib) == MemoryPlan(4, 100 * mib, False)
    assert plan_memory(4, max_bytes=BASE_BYTES + 200 * mib) == MemoryPlan(4, 136 * mib, True)
    assert plan_memory(4, max_bytes=BASE_BYTES + 40 * mib) == MemoryPlan(2, 8 * mib, True)
    with pytest.raises(ValueError, match="max memory: got 100 MB, expected at least 117 MB"):
        plan_memory(4, max_bytes=100_000_000)
