"""`python -m apo.data.check` on every kind of the user's data, and the picture that it draws."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apo.data.check import check
from apo.errors import UserError
from apo.io.framing import CAPTION, HEIGHT
from tests.data.clips import counted, write_jsonl

ROOT = Path(__file__).parents[2]
SPEC = ["model.spec.frames=5", "model.spec.height=16", "model.spec.width=16"]


@pytest.fixture
def manifests(tmp_path, records) -> dict[str, Path]:
    """Of each kind, over videos of 24 x 16 and one of 16 x 32."""
    counted(tmp_path / "tall.mp4", 6, height=32, width=16, start=30)
    Image.new("RGB", (48, 16), "white").save(tmp_path / "a.png")
    kinds = {
        "pairs": [*records, records[0], records[1] | {"rejected": "tall.mp4"}],
        "prompts": [{"prompt": "p", "image": "a.png", "domain": "human"}],
        "anchors": [
            {"prompt": "p", "video": "good0.mp4", "label": "positive"},
            {"prompt": "p", "video": "tall.mp4", "label": "negative"},
        ],
        "rankings": [{"prompt": f"p{i}", "first": "good0.mp4", "second": "tall.mp4", "label": 1 + i} for i in range(3)],
    }
    return {kind: write_jsonl(tmp_path / f"{kind}.jsonl", rows) for kind, rows in kinds.items()}


SAID = {
    "pairs": [
        "9 rows of 4 prompts, all usable",
        "1 of 9 rows repeat another and count again: rows 8",
        "12 videos of 0.8 to 0.8 s",
        "11 files of 24 x 16: model.spec.fit=crop to 16 x 16 keeps 67% of the picture",
        "1 file of 16 x 32: ",
    ],
    "prompts": [
        "1 rows of 1 prompts",
        "domain: human 1",
        "1 file of 48 x 16: model.spec.fit=crop to 16 x 16 keeps 33% of the picture",
    ],
    "anchors": ["label: positive 1, negative 1", "the model takes 0.6 s of each (5 frames at 8 fps)"],
    "rankings": ["3 rows of 3 prompts, all usable; label: 1 1, 2 1, 3 1"],
}


@pytest.mark.parametrize("kind", SAID)
def test_every_kind_is_counted_without_a_model(tmp_path, manifests, capsys, kind):
    nowhere = "model.path=no/model/here"
    picture = check([f"data={kind}", f"data.path={manifests[kind]}", nowhere, *SPEC], tmp_path / "there" / "seen.png")
    said = capsys.readouterr().out
    assert all(line in said for line in SAID[kind]), said
    assert picture.is_file() and not list(tmp_path.rglob("*cache*"))


def test_the_picture_shows_what_is_cut_and_what_is_left(tmp_path, manifests):
    def drawn(*more: str) -> np.ndarray:
        path = check(["data=prompts", f"data.path={manifests['prompts']}", *SPEC, *more], tmp_path / "seen.png")
        return np.asarray(Image.open(path).convert("RGB"))[CAPTION : CAPTION + HEIGHT].astype(int)

    middle = drawn()[HEIGHT // 2]  # of a white picture of 48 x 16
    assert middle[10].tolist() == middle[3 * HEIGHT - 10].tolist() == [85] * 3  # cut: a third of the light
    assert middle[3 * HEIGHT // 2].tolist() == [255] * 3 and middle[HEIGHT].tolist() == middle[
        2 * HEIGHT - 1
    ].tolist() == [255, 0, 0]
    padded = drawn("model.spec.fit=pad")
    assert padded[HEIGHT // 2, 10].tolist() == [255] * 3 and padded[10, -HEIGHT // 2].tolist() == [0] * 3


def test_what_has_no_manifest_is_refused():
    for overrides, said in [
        ([], "data=WorldPairs has no manifest: give data=pairs"),
        (["data=pairs"], "data.path is not set"),
        (["data=pairs", "data.path=x.jsonl", "model.spec.fit=stretch"], "model.spec.fit=stretch: give crop or pad"),
    ]:
        with pytest.raises(UserError, match=said):
            check(overrides, None)


def test_the_command_says_where_the_picture_lies_or_what_is_wrong_without_a_traceback(tmp_path, manifests):
    command = [sys.executable, "-m", "apo.data.check", "data=pairs", f"data.path={manifests['pairs']}", *SPEC]
    for picture, code, said in [
        (tmp_path / "seen.png", 0, f"what the model will see of them: {tmp_path}/seen.png"),
        (
            tmp_path / "a.png" / "seen.png",
            1,
            "there is a file of that name: give another path, then run the same command again",
        ),
    ]:
        done = subprocess.run([*command, f"--picture={picture}"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == code and said in (done.stderr if code else done.stdout).splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr
