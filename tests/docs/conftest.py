"""The documentation's own modules, which stand beside its pages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / "docs"))


def options_of(parser: Any) -> list[str]:
    """Return the long options of a parser, those that its help does not show included."""
    return [name for name in parser.options if name.startswith("--")]
