"""Suites of environments, one file each: their rows and their wrapping."""
