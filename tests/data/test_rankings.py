"""`data=rankings`: the user's labelled pairs of videos."""

import pytest
import torch
from omegaconf import OmegaConf

from apo.data.domains import DomainRule
from apo.data.manifest import ManifestError
from apo.data.rankings import UserRankings
from apo.parts import Setting
from tests.data.clips import SIZES, Spec, counted, numbers, write_jsonl

RULE = DomainRule({"landscape": "non_human"}, "human", None)


@pytest.fixture
def records(tmp_path) -> list[dict]:
    """Two rankings of each of four prompts; landscapes by their prompt, the last row says its domain."""
    rows = []
    for i in range(8):
        for name, start in (("a", i), ("b", 20 + i)):
            counted(tmp_path / f"{name}{i}.mp4", 6, start=start)
        kind = "landscape" if i % 4 == 3 else "person"
        rows.append({"prompt": f"{kind} {i % 4}", "first": f"a{i}.mp4", "second": f"b{i}.mp4", "label": 1 + i % 4})
    rows[-1]["domain"] = "human"
    return rows


def rankings(folder, records, **changes) -> UserRankings:
    settings = dict(domains=RULE, domain=None, spec=Spec(), validation_fraction=0.25, seed=0)
    return UserRankings(write_jsonl(folder / "rankings.jsonl", records), **settings | changes)


def test_items_are_the_rows_decoded_to_the_spec(tmp_path, records):
    source = rankings(tmp_path, records, validation_fraction=0.0)
    source.check(Setting(Spec()))
    data = source.prepare(None).train
    assert len(data) == 8 and [data[i]["label"] for i in range(4)] == [1, 2, 3, 4]
    assert data.domains == ["human"] * 3 + ["non_human"] + ["human"] * 4
    batch = data.collate([data[1], data[2]])
    assert batch.first.shape == (2, 5, 3, 16, 24) and batch.first.dtype == torch.uint8
    assert numbers(batch.first[0]) == [1, 2, 3, 4, 5] and numbers(batch.second[0]) == [21, 22, 23, 24, 25]
    assert batch.label.tolist() == [2, 3] and batch.prompt == ["person 1", "person 2"]


def test_a_spec_of_yaml_may_leave_out_how_videos_are_fitted(tmp_path, records):
    data = rankings(tmp_path, records, spec=OmegaConf.create(SIZES)).prepare(None).train
    assert data[0]["first"].shape == (5, 3, 16, 24)


def test_no_prompt_is_on_both_sides(tmp_path, records):
    split = rankings(tmp_path, records).prepare(None)
    sides = [
        {split_part[i]["prompt"] for i in range(len(split_part))} for split_part in (split.train, split.validation)
    ]
    assert not sides[0] & sides[1] and len(split.train) == 6 and len(split.validation) == 2
    with pytest.raises(ValueError, match="of 2 rankings of 1 prompts leaves none to train on"):
        rankings(tmp_path, [records[0], records[4]]).prepare(None)


def test_the_identity_is_of_what_is_shown_and_said_wherever_the_files_lie(tmp_path, records):
    def identity() -> str:
        return rankings(tmp_path, records).prepare(None).train.identity

    first = identity()
    (tmp_path / "a0.mp4").rename(tmp_path / "moved.mp4")
    records[0]["first"] = "moved.mp4"
    assert identity() == first
    said = [first]
    for change in ({"label": 2}, {"segment": [0.0, 0.7]}, {"domain": "non_human"}):
        records[0] |= change
        said.append(identity())
    counted(tmp_path / "moved.mp4", 6, start=9)
    assert len({*said, identity()}) == 5


def test_one_domain_can_be_chosen(tmp_path, records):
    chosen = rankings(tmp_path, records, domain="non_human", validation_fraction=0.0)
    chosen.check(Setting(Spec()))
    assert [row.prompt for row in chosen.prepare(None).train.rows] == ["landscape 3"]
    with pytest.raises(ValueError, match="data.domain=digit: no row .* there are human, non_human"):
        rankings(tmp_path, records, domain="digit").check(Setting(Spec()))


def test_all_bad_rows_are_reported_at_once(tmp_path, records):
    records[0]["label"] = 5
    records[1]["second"] = "nowhere.mp4"
    records[2]["domain"] = "cars"
    records[3]["second"] = records[3]["first"]
    del records[4]["label"]
    with pytest.raises(ManifestError) as caught:
        rankings(tmp_path, records).check(Setting(Spec()))
    said = {problem.line: problem.message for problem in caught.value.problems}
    assert set(said) == {1, 2, 3, 4, 5}
    assert said[1].startswith("label is 5: write one of 1, 2, 3, 4") and "no such file" in said[2]
    assert (
        "domain='cars': there is no ranking prompt" in said[3]
        and "the same video" in said[4]
        and "label is missing" in said[5]
    )
