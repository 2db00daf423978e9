"""The state of an SB3 model: `model_state.py` is what others ask."""
