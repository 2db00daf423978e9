"""What all worker processes need, imported once by the server that they are forked from.

It takes seconds and hundreds of megabytes, which each worker would otherwise take anew.
"""

import sys

# The server looks into the current folder first, where a torch.py of anybody's may lie. Its workers look where the
# process that started them looks.
if "" in sys.path:
    sys.path.remove("")

import stillsight.envs.making
import stillsight.envs.vectorised.worker_vec_env  # noqa: F401
