"""Taps: which stages are read, and how what they hand on becomes one vector."""
