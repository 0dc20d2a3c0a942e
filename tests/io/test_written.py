"""Only what was written is ever replaced or removed."""

import json
from pathlib import Path

import pytest

from apo.errors import UserError
from apo.io.written import Written


def put(folder: Path, name: str, text: str) -> None:
    Written(folder).put(name, lambda path: path.write_text(text))


def test_what_was_written_is_replaced_and_removed(tmp_path):
    put(tmp_path, "videos/000.mp4", "old")
    put(tmp_path, "videos/000.mp4", "new")
    put(tmp_path, "videos/001.mp4", "new")
    assert (tmp_path / "videos/000.mp4").read_text() == "new"
    Written(tmp_path).keep("videos", ["videos/001.mp4"])
    assert {path.name for path in tmp_path.rglob("*")} == {".written.json", "videos", "001.mp4"}


def test_what_others_wrote_or_changed_stays_and_is_named(tmp_path, capsys):
    put(tmp_path, "videos/000.mp4", "ours")
    (tmp_path / "videos/000.mp4").write_text("cut by the user")
    (tmp_path / "videos/001.mp4").write_text("the user's")
    (tmp_path / "videos/002.mp4").symlink_to(tmp_path / "videos/001.mp4")
    before = {path: path.read_text() for path in (tmp_path / "videos").iterdir()}
    for name in ("000", "001", "002"):
        put(tmp_path, f"videos/{name}.mp4", "ours")
        assert f"left as it is: {tmp_path}/videos/{name}.mp4" in capsys.readouterr().err
    Written(tmp_path).keep("videos", [])
    assert {path: path.read_text() for path in (tmp_path / "videos").iterdir()} == before


@pytest.mark.parametrize(
    "note", ["", "{", "[]", "5", "null", '{"a.mp4": 5}', '{"a.mp4": null}', '"' + "[" * 9, "[" * 10**5]
)
def test_a_damaged_list_removes_nothing(tmp_path, note):
    (tmp_path / ".written.json").write_text(note)
    (tmp_path / "a.mp4").write_text("a")
    Written(tmp_path).keep("videos", [])
    put(tmp_path, "a.mp4", "ours")
    assert (tmp_path / "a.mp4").read_text() == "a"


def test_a_folder_in_place_of_the_list_is_named_with_the_remedy(tmp_path):
    (tmp_path / ".written.json").mkdir()
    with pytest.raises(UserError, match=r"\.written\.json is a folder, and a file belongs there: move it away"):
        Written(tmp_path)


def test_a_list_does_not_lead_out_of_its_folder(tmp_path):
    folder = tmp_path / "eval"
    put(folder, "videos/a.mp4", "mine")
    (tmp_path / "mine.txt").write_text("mine")
    known = json.loads((folder / ".written.json").read_text())
    known |= dict.fromkeys(["videos/../../mine.txt", "../mine.txt", str(tmp_path / "mine.txt")], known["videos/a.mp4"])
    (folder / ".written.json").write_text(json.dumps(known))
    Written(folder).keep("videos", [])
    assert (tmp_path / "mine.txt").exists() and not (folder / "videos/a.mp4").exists()


def test_whoever_is_killed_while_writing_leaves_nothing_that_is_taken_for_the_users(tmp_path, monkeypatch):
    put(tmp_path, "a.mp4", "old")
    for killed_at in (1, 2):
        written, calls = Written(tmp_path), []

        def dies(name, digests, note=written.note, calls=calls, killed_at=killed_at):
            calls.append(name)
            if len(calls) == killed_at:
                raise KeyboardInterrupt
            note(name, digests)

        written.note = dies
        with pytest.raises(KeyboardInterrupt):
            written.put("a.mp4", lambda path: path.write_text("new"))
        assert Written(tmp_path).free("a.mp4")
    put(tmp_path, "a.mp4", "newest")
    assert (tmp_path / "a.mp4").read_text() == "newest"
