"""Run stillsight from a checkout: `python train.py rl --env ...` is `stillsight rl --env ...`."""

import sys

try:
    from stillsight.agents.cli import main
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "stillsight":
        raise
    sys.exit("stillsight is not installed in this Python. Run: make demo   (or: pip install -e .)")

if __name__ == "__main__":
    sys.exit(main())
