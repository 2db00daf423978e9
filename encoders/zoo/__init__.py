"""The encoders by name: the registry, and one file a family."""
