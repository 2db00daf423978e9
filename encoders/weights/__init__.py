"""Weights: where they come from, what their files hold, and how they fit a network."""
