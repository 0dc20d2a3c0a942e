"""What a ranker can't be set to is refused before a server is asked or a model loaded."""

import pytest

from apo.checks import ConfigError, check
from apo.data.domains import DomainRule
from apo.errors import UserError
from tests.test_configs import composed

WRONG = {
    "served": "frames=0 frames=-1 frames=1e9 fps=0 fps=nan retries=-1 timeout_s=0 timeout_s=inf hello_timeout_s=nan "
    "max_concurrency=0 "
    "top_logprobs=99 top_logprobs=0 media=foo swap_averaging=maybe model='' model=null base_url=3 base_url=http:// "
    "base_url=ftp://host body=3 domains.default=cars domains.default=../human domains.prompts=nowhere",
    "oracle": "error_rate=nan error_rate=0.7 error_rate=-1 similar=nan similar=2 seed=-1",
    "qwen3_vl": "frames=0 frames=10000000 batch_size=0 dtype=int3 device=tpu9 path='' path=nowhere "
    "adapter=nowhere fps=-1",
}


@pytest.mark.parametrize("ranker", WRONG)
def test_a_value_that_can_not_be_is_named(ranker, tmp_path):
    for value in WRONG[ranker].split():
        with pytest.raises(ConfigError, match=f"ranker.{value.partition('=')[0]}=|^domain"):
            check(composed("stage=online", f"ranker={ranker}", f"ranker.{value}"), tmp_path)


def test_a_rule_that_is_no_regular_expression_is_named():
    with pytest.raises(UserError, match="domains.rules: '.a' is no regular expression .*: correct it"):
        DomainRule({"(a": "digit"}, "digit", None)
