"""The training loop: losses, schedule, averaged weights, resuming, several processes."""
