"""Judges of the world refuse the user's data before anything is generated, and domains that nobody judges are named."""

import pytest
from PIL import Image

from apo.checks import check
from apo.errors import UserError
from apo.evaluation import Evaluation
from tests.data.clips import write_jsonl
from tests.test_configs import composed

WORLDS = "the red digit five moves up quickly"


@pytest.fixture
def manifest(tmp_path):
    """prompts -> the path of a manifest of them."""

    def written(*prompts: str, **more) -> str:
        Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
        return str(
            write_jsonl(
                tmp_path / "prompts.jsonl", [{"prompt": prompt, "image": "a.png", **more} for prompt in prompts]
            )
        )

    return written


def online(path: str, *more: str):
    return composed("stage=online", "data=prompts", f"data.path={path}", *more)


def test_the_oracle_refuses_prompts_that_are_not_the_worlds(manifest, tmp_path):
    said = "ranker=oracle judges the world only, and in row 2 of the data 'a man waves' is not a sentence of "
    said += "the world.*or use ranker="
    with pytest.raises(UserError, match=said):
        check(online(manifest(WORLDS, "a man waves")), tmp_path / "run")
    check(online(manifest(WORLDS, "the camera pans left slowly over the temple")), tmp_path / "run")


def test_the_worlds_evaluator_refuses_them_too(manifest):
    def evaluation(path: str, *more: str) -> Evaluation:
        return Evaluation(composed("conditions=prompts", f"conditions.path={path}", *more, name="evaluate"))

    with pytest.raises(
        UserError, match="evaluator=world judges the world only, and in row 1 of the data 'a man.*or use evaluator=none"
    ):
        evaluation(manifest("a man waves")).check([])
    evaluation(manifest("a man waves"), "evaluator=none").check([])
    evaluation(manifest(WORLDS)).check([])


def test_a_domain_of_the_data_that_nobody_judges_is_named(manifest, tmp_path):
    with pytest.raises(UserError, match="domain='cars' has no ranker; there are digit, scene"):
        check(online(manifest(WORLDS, domain="cars"), "ranker=by_domain"), tmp_path / "run")
    with pytest.raises(UserError, match="domain='cars': there is no ranking prompt for it"):
        check(online(manifest(WORLDS, domain="cars"), "ranker=qwen3_vl"), tmp_path / "run")
    (tmp_path / "cars.txt").write_text("Which car?")
    (tmp_path / "digit.txt").write_text("Which digit?")
    own = ("ranker=qwen3_vl", f"ranker.domains.prompts={tmp_path}")
    with pytest.raises(UserError, match="domain='scene': there is no ranking prompt for it in .*which has cars, digit"):
        check(online(manifest(WORLDS, domain="cars"), *own), tmp_path / "run")
    (tmp_path / "scene.txt").write_text("Which scene?")
    check(online(manifest(WORLDS, domain="cars"), *own), tmp_path / "run")
