import pytest

from tests.conftest import shared
from tests.rankers.tiny import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of a tiny random Qwen3-VL."""
    return shared(tmp_path_factory, "vlm", tiny_base)
