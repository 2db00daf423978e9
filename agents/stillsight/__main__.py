"""`python -m stillsight rl --env ...` is `stillsight rl --env ...`. Installed as stillsight/__main__.py."""

import os
import sys

# `python -m` puts the current folder before everything that is installed, and a stranger's folder may hold a torch.py.
if sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from stillsight.agents.cli import main

if __name__ == "__main__":
    sys.exit(main())
