"""The card says what the lineage says."""

import json
from pathlib import Path

import pytest
import yaml

from apo import card
from tests.adapters import finished
from tests.policies.test_wan import LORA, make, perturbed


@pytest.fixture
def adapter(request, tmp_path) -> Path:
    return finished(tmp_path / "first", make(request, "wan22"), LORA, "run=trial", "max_steps=7", "stage=online")


def lineage_of(adapter: Path) -> dict:
    return json.loads((adapter / "lineage.json").read_text())


def test_a_card_is_written_with_the_lineage_and_tells_it(adapter):
    text, lineage = (adapter / "README.md").read_text(), lineage_of(adapter)
    front = yaml.safe_load(text.split("---")[1])
    assert (
        front["library_name"] == "diffusers" and "lora" in front["tags"] and "base_model" not in front
    )  # a local folder
    assert lineage["base"]["hash"] in text and all(digest in text for digest in lineage["files"].values())
    assert "| online | 7 | 8 | 0.0008 | 500 | APOSampler | 0 |" in text
    assert "rank 4, alpha 4" in text and "at t >= 900" in text and "Not evaluated yet" in text
    assert set(adapter.iterdir()) == {adapter / name for name in ("README.md", "lineage.json", *lineage["files"])}


def test_the_loading_lines_load(adapter, request):
    text = (adapter / "README.md").read_text()
    scope = {}
    exec(text.split("```python\n")[1].split("```")[0].replace('(".", ', f"({str(adapter)!r}, "), scope)
    assert [list(t.peft_config) for t in (scope["pipe"].transformer, scope["pipe"].transformer_2)] == [
        ["apo"],
        ["apo_low"],
    ]


def test_the_next_stages_card_has_both_stages(adapter, request, tmp_path):
    policy = perturbed(make(request, "wan22", adapter=str(adapter)))
    second = finished(tmp_path / "second", policy, LORA, f"adapter={adapter}", "stage=half_online")
    rows = [
        line.split(" | ")[0]
        for line in (second / "README.md").read_text().splitlines()
        if line.endswith("| APOSampler | 0 |")
    ]
    assert rows == ["| online", "| half_online"]
    (adapter / "lineage.json").write_text(
        json.dumps(lineage_of(adapter) | {"files": {}})
    )  # trained anew since: not where this came from
    assert [stage["stage"] for stage in card.stages(lineage_of(second))] == ["half_online"]


def test_an_evaluation_adds_its_table(adapter):
    report = {
        "run": "trial",
        "stage": "first",
        "n": 400,
        "metrics": {"distortion_rate": {"value": 0.2, "low": 0.18, "high": 0.225}},
        "against": {"run": "baseline", "win": 3, "tie": 2, "loss": 1, "win_rate": {}},
    }
    (adapter.parent / "eval").mkdir()
    (adapter.parent / "eval" / "report.json").write_text(json.dumps(report))
    notes = "\nWhat we think of it.\n"
    (adapter / "README.md").write_text((adapter / "README.md").read_text() + notes)
    card.renew(adapter)
    text = (adapter / "README.md").read_text()
    assert text == card.card(adapter, lineage_of(adapter)) + notes
    assert "| distortion_rate | 0.200 | 0.180-0.225 |" in text and "Against baseline: 3 won, 2 tied, 1 lost." in text
    assert "Not evaluated yet" not in text
    (adapter.parent / "eval" / "report.json").write_text("{half")
    card.renew(adapter)
    assert "Not evaluated yet" in (adapter / "README.md").read_text()


def test_a_hub_base_is_named_and_a_ranker_is_loaded_by_us(adapter):
    lineage = lineage_of(adapter)
    lineage["base"]["path"] = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
    assert yaml.safe_load(card.card(adapter, lineage).split("---")[1])["base_model"] == lineage["base"]["path"]
    lineage["config"]["vlm"] = {"lora": LORA}
    assert "ranker=qwen3_vl ranker.adapter=" in card.card(adapter, lineage) and "load_lora" not in card.card(
        adapter, lineage
    )
