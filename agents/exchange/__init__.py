"""Exchange: agents as zips of stock Stable-Baselines3, and back."""
