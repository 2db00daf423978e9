"""The run folder: its files, checkpoints, machine, progress and plots."""
