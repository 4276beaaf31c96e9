"""The type of the fixture `log_lines`."""

from collections.abc import Callable
from typing import Any

LogLines = Callable[[], list[dict[str, Any]]]
