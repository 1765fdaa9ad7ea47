"""Metrics of the data sets that the packages report on; NumPy and compiled loops, no torch."""
