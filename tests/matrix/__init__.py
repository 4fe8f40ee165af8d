"""Real programs, unchanged, under both launchers."""

import pytest

pytest.register_assert_rewrite("matrix.acts", "matrix.stage", "matrix.terminal")
