"""Orchard: the project's own pixel environment. Importing this package registers its ids with Gymnasium."""

from stillsight.envs.orchard.orchard import BEST_RETURN, Orchard

__all__ = ["BEST_RETURN", "Orchard"]
