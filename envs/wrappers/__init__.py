"""Wrappers between a game and what an agent sees of it."""
