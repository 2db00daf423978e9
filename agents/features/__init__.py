"""The policy's eyes: what is encoded before it, and what learns inside it."""
