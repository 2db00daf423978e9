"""Running the cells of a benchmark: locally or on a Ray cluster."""
