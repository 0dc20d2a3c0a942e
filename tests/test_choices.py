import pytest

from apo.choices import require_choices
from apo.errors import UserError
from apo.policies.model import downloaded


@pytest.mark.parametrize("word", ["logger=null", "model=NULL", "stage=", "hydra/launcher=null"])
def test_a_group_set_to_nothing_is_refused_with_its_options(word):
    with pytest.raises(UserError, match=f"^{word}: give one of .*, or leave it out$"):
        require_choices(["max_steps=3", word])


def test_settings_that_may_be_null_pass():
    require_choices(["adapter=null", "ema_decay=null", "logger=none", "guidance=none", "trainer.threads=null"])


def test_a_model_that_is_nowhere_is_refused_with_the_remedy():
    with pytest.raises(UserError, match="^model.path=nobody/nothing: not on this disk.*give its folder as model.path$"):
        downloaded("nobody/nothing")
