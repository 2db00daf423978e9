"""Replay and rollout memory that hold each frame's features once."""
