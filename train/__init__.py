"""Training with PyTorch: folds, the network, the loop. Never installed on a Raspberry Pi."""
