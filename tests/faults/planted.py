"""What a stranger would like to have run: it leaves a marker when anything of it is imported, called or unpickled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def go(*_: Any, **__: Any) -> Any:
    """Leave the marker."""
    marker = os.environ.get("STILLSIGHT_FAULTS_MARKER")
    if marker:
        Path(marker).touch()
    return {}


go()
