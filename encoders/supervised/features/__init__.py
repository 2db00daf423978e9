"""Frozen features, computed once an image and stored."""
