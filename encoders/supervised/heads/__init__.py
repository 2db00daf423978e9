"""Heads on frozen features: linear, MLP, k-NN, nearest class mean."""
