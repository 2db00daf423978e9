"""The report of a classifier: scores, calibration, charts, mistakes."""
