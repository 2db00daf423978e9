"""The statistics of a benchmark and what may be claimed by them. Numbers only, no wording."""
