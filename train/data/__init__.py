"""Pictures and batches: reading, folds, sampling, augmentation."""
