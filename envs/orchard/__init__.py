"""Orchard: the project's own pixel environment. Importing this package registers its ids with Gymnasium."""

from stillsight.envs.orchard.orchard import BEST_RETURN, Orchard
from stillsight.envs.suites.orchard_suite import register

__all__ = ["BEST_RETURN", "Orchard"]

register()
