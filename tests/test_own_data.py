"""A user's table from the command line to an adapter: other names of columns, a damaged cache, a manifest that can't be
used.
"""

import csv
import json
from pathlib import Path

import pytest

from apo.tools.inputs import ROOT, working_tree, write_manifests
from apo.tools.warm import Done, Warm
from tests.commands import adapter

SMALL = (
    "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
    "model.num_inference_steps=4",
    "policy.lora.rank=2",
    "max_steps=2",
    "sample_every_n_steps=0",
    "validate_every_n_steps=2",
    "batch_size=2",
    "logger=csv",
    "trainer.threads=1",
    "model.spec.fit=pad",
)
COLUMNS = "data.columns={prompt: caption, chosen: chosen_file_name, rejected: rejected_file_name}"


@pytest.fixture(scope="module")
def warm():
    with Warm(ROOT) as server:
        yield server


@pytest.fixture
def train(tmp_path, wan22_folder, warm):
    """run, data.path, *more -> how `train.py stage=offline data=pairs` ended, in a working tree of its own."""
    tree = working_tree(tmp_path / "tree")

    def run(name: str, path: Path, *more: str) -> Done:
        data = ("data=pairs", f"data.path={path}", f"model.path={wan22_folder}")
        return warm.run(["train.py", "stage=offline", f"run={name}", *data, *SMALL, *more], tree, 300)

    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    """As Hugging Face lays it out: metadata.csv with a column more than is needed, beside its files."""
    rows = [json.loads(line) for line in write_manifests(tmp_path / "data", 4)["pairs"].read_text().splitlines()]
    with open(tmp_path / "data" / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["caption", "score", "chosen_file_name", "rejected_file_name"])
        writer.writerows([row["prompt"], 0.5, row["chosen"], row["rejected"]] for row in [*rows, rows[0]])
    return tmp_path / "data"


def test_a_table_with_other_columns_trains_and_a_damaged_cache_changes_nothing(tmp_path, train, folder):
    done = train("first", folder, COLUMNS)
    assert done.code == 0 and "1 of 5 rows repeat another and count again: rows 6" in done.output, done.output[-3000:]
    tree = tmp_path / "tree" / "outputs"
    for file in (tree / "cache" / "pairs").rglob("*.safetensors"):
        damaged = bytearray(file.read_bytes())
        damaged[-7] ^= 1  # in a tensor: the header is sound
        file.write_bytes(damaged)
    again = train("second", folder, COLUMNS)
    assert again.code == 0 and "its bytes are not those that were written; it is encoded anew" in again.output, (
        again.output[-3000:]
    )
    first, second = (tree / run / "offline" for run in ("first", "second"))
    assert adapter(first) == adapter(second) and adapter(first)
    names = [json.loads((run / "adapter" / "lineage.json").read_text())["data"] for run in (first, second)]
    assert names[0] == names[1] and len(names[0]) == 64


def test_what_is_wrong_with_a_table_is_said_in_lines_and_nothing_is_made(tmp_path, train, folder):
    bad = folder / "bad.jsonl"
    bad.write_text('{"prompt": "\\ud800"}\n{"prompt": 1e999, "domain": "../x"}\n' + "[" * 100_000)
    for path, more, said in [
        (folder, "data.columns=null", "unknown column 'caption', in 5 of 5 rows"),
        (folder, "data.columns={promt: caption}", "give the name of a column to one of prompt"),
        (bad, "data.columns=null", "3 bad rows"),
        (folder / "nowhere.csv", COLUMNS, "no such manifest"),
        (folder, "model.spec.fit=stretch", "model.spec.fit=stretch: give crop or pad"),
    ]:
        done = train("wrong", path, more)
        assert done.code == 1 and said in done.output and "Traceback" not in done.output, done.output[-3000:]
        assert done.lines[0].startswith("config: ") and all(line.startswith("  line ") for line in done.lines[1:])
    assert not list((tmp_path / "tree" / "outputs").rglob("adapter"))
