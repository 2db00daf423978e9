"""What a benchmark asks for: tasks, arms, seeds and the cells that follow from them."""
