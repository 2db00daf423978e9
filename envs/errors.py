"""The one exception that tells a user what to type."""


class EnvError(ValueError):
    """A user's mistake about an environment, in one sentence: what was found, what is allowed, what to type.

    The command line prints the sentence without a traceback and exits with code 2; bugs keep their own exceptions.
    """
