"""What a command says of a mistake, wherever it was raised."""

import pytest
from hydra.utils import instantiate

from apo.errors import UserError, one_line


class Part:
    def __init__(self, value: int):
        raise (UserError if value else TypeError)(f"value={value}: give another")


def test_a_user_error_that_a_constructor_raised_is_one_line_and_a_bug_is_not_hidden():
    with pytest.raises(SystemExit, match="^config: value=1: give another$"), one_line("config"):
        instantiate({"_target_": "tests.test_errors.Part", "value": 1})
    with pytest.raises(Exception, match="value=0"), one_line("config"):
        instantiate({"_target_": "tests.test_errors.Part", "value": 0})
