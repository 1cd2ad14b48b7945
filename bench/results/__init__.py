"""Results files: predictions joined with a data set, gates, comparisons."""
