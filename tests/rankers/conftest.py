import pytest

from tests.rankers.tiny import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of a tiny random Qwen3-VL."""
    return tiny_base(tmp_path_factory.mktemp("vlm") / "base")
