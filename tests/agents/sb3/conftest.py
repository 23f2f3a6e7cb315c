from __future__ import annotations

import pytest

pytest.importorskip("torch").set_num_threads(1)
