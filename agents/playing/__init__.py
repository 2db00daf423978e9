"""Playing with trained agents and classifiers: returns, videos, predictions."""
