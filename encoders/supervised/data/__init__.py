"""Labelled images: CIFAR and image folders, subsets of them, and picture files."""
