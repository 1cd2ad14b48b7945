"""The report: one self-contained page, its plots and tables."""
