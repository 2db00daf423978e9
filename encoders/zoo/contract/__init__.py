"""What a backbone promises: `contract.py` is what others ask."""
