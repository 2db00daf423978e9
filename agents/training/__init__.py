"""Training an agent: configuration, model, callbacks, checkpoints, and the story of one run."""
