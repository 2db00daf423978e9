"""timm's models: `models.py` is what others ask."""
