import pytest

# The suite's asserts explain themselves as those in test files do.
pytest.register_assert_rewrite("tests.storage.conformance")
