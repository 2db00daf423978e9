"""Engines: how the frozen part is run."""
