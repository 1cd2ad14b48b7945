"""Speed: latency, and other pipelines beside it."""
