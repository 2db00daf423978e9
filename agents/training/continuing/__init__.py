"""Going on: a run that is resumed, and a new one that begins with the policy of another."""
