"""Speed and memory: latency, peers, decoding fidelity."""
