"""The supervised track: classifiers on labelled images, with the same encoders, modes and device utilities."""
