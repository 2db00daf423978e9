"""Doctor: what works on this machine, what is whole in a run folder, and what to type where something is not."""
