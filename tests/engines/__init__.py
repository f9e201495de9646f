import pytest

# The helpers' asserts explain themselves as those in test files do.
pytest.register_assert_rewrite("tests.engines.conformance")
