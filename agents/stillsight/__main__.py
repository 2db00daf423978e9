"""`python -m stillsight rl --env ...` is `stillsight rl --env ...`. Installed as stillsight/__main__.py."""

import sys

from stillsight.agents.cli import main

if __name__ == "__main__":
    sys.exit(main())
