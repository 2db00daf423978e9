"""Environments side by side as one VecEnv: in worker processes, and from vector environments of Gymnasium."""
