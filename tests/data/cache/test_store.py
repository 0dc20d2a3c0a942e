import errno
import subprocess

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from apo.data.cache.store import LatentCache, fingerprint
from apo.data.manifest import PairRow, load
from apo.errors import UserError
from apo.io.files import HOST
from tests.data.clips import FakePolicy, Spec, contents, counted, numbers, write_jsonl


@pytest.fixture
def rows(manifest):
    return load(manifest, PairRow, Spec())


def built(folder, rows, policy, **kwargs):
    cache = LatentCache(folder, fingerprint(policy))
    return cache, cache.build(rows, policy, **kwargs)


def test_a_file_holds_what_training_needs(tmp_path, rows):
    cache, share = built(tmp_path / "cache", rows, FakePolicy(embeds=True))
    path = cache.folder / share.names[5]
    tensors = load_file(path)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "chosen": (3, 2, 2, 3),
        "rejected": (3, 2, 2, 3),
        "text": (2, 4),
        "image": (7, 2, 2, 3),
        "frame": (3, 16, 24),
        "image_embeds": (2, 3),
    }
    assert tensors["chosen"].dtype == torch.bfloat16 and tensors["text"].dtype == torch.float32
    assert numbers(tensors["frame"][None]) == [1]  # the first frame of good1.mp4
    assert numbers(tensors["rejected"].movedim(1, 0) * 255)[0] == 25  # of bad5.mp4
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"prompt": "pair 1", "domain": ""}


def test_a_second_build_does_nothing_and_a_new_model_everything(tmp_path, rows):
    policy = FakePolicy()
    _, first = built(tmp_path / "cache", rows, policy)
    assert policy.encoded == 2 * len(rows)
    _, again = built(tmp_path / "cache", rows, policy)
    assert policy.encoded == 2 * len(rows) and again.names == first.names
    other = FakePolicy(fingerprint="other")
    cache, share = built(tmp_path / "cache", rows, other)
    assert other.encoded == 2 * len(rows) and share.names == first.names
    smaller, wordier = FakePolicy(Spec(frames=1)), FakePolicy()
    wordier.max_sequence_length = 9
    padded = FakePolicy(Spec(fit="pad"))
    for changed in (smaller, wordier, padded):
        built(tmp_path / "cache", rows, changed)
        assert changed.encoded == 2 * len(rows)


def test_todays_caches_stay_valid():
    assert fingerprint(FakePolicy()) == "fake 16x24 5 frames 8 fps 8 tokens"


def test_a_killed_build_is_resumed(tmp_path, rows):
    class Killed(FakePolicy):
        def encode(self, video):
            if self.encoded == 6:
                raise KeyboardInterrupt
            return super().encode(video)

    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "cache", rows, Killed())
    cache = LatentCache(tmp_path / "cache", fingerprint(FakePolicy()))
    dead = subprocess.Popen(["true"])
    dead.wait()
    stray = cache.folder / f".left.safetensors.{HOST}-{dead.pid}-0123abcd.tmp"
    stray.write_bytes(b"half a file")
    policy = FakePolicy()
    built(tmp_path / "cache", rows, policy)
    assert policy.encoded == 2 * len(rows) - 6 and not stray.exists()
    built(tmp_path / "uninterrupted", rows, FakePolicy())
    assert contents(tmp_path / "cache") == contents(tmp_path / "uninterrupted")


def test_a_folder_in_place_of_a_file_is_named_with_the_remedy(tmp_path, rows):
    cache, share = built(tmp_path / "cache", rows, FakePolicy())
    path = cache.folder / share.names[0]
    path.unlink()
    path.mkdir()
    for thorough in (False, True):
        with pytest.raises(UserError, match=f"^{path} is a folder, and a file belongs there: move it away"):
            cache.build(rows, FakePolicy(), thorough=thorough)


def test_corrupted_files_are_rebuilt(tmp_path, rows):
    cache, share = built(tmp_path / "cache", rows, FakePolicy())
    before = contents(cache.folder)
    paths = [cache.folder / share.names[i] for i in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[:-10])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(b"\0" * paths[2].stat().st_size)
    paths[3].write_bytes(paths[3].read_bytes() + b"\0")
    policy = FakePolicy()
    built(tmp_path / "cache", rows, policy)
    assert policy.encoded == 2 * 4 and contents(cache.folder) == before


def test_ranks_share_the_work(tmp_path, rows):
    policies = FakePolicy(), FakePolicy()
    shares = [built(tmp_path / "cache", rows, policy, rank=rank, world=2)[1] for rank, policy in enumerate(policies)]
    assert [policy.encoded for policy in policies] == [8, 6]
    assert sorted(shares[0].names | shares[1].names) == list(range(7))


def test_content_makes_the_name_and_labels_are_kept_up_to_date(tmp_path, records, rows):
    cache, share = built(tmp_path / "cache", rows, FakePolicy())
    (tmp_path / "good0.mp4").rename(tmp_path / "moved.mp4")
    records[0] |= {"chosen": "moved.mp4", "domain": "human"}
    counted(tmp_path / "bad1.mp4", 6, start=40)
    changed = load(write_jsonl(tmp_path / "m.jsonl", records[:2]), PairRow, Spec())
    policy = FakePolicy()
    _, after = built(tmp_path / "cache", changed, policy)
    assert after.names[0] == share.names[0] and after.names[1] != share.names[1] and policy.encoded == 4
    with safe_open(cache.folder / after.names[0], "pt") as file:
        assert file.metadata()["domain"] == "human"


def test_a_full_disk_is_no_fault_of_a_row(tmp_path, rows, monkeypatch):
    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("apo.data.cache.store.write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        built(tmp_path / "cache", rows, FakePolicy())


def test_rows_that_turn_out_bad_do_not_stop_the_others(tmp_path, rows):
    counted(tmp_path / "bad2.mp4", 6, start=2, codec="mpeg4")  # the frames of good2.mp4 in another codec
    counted(tmp_path / "good2.mp4", 6, start=2, codec="mpeg4")
    (tmp_path / "bad2.mp4").write_bytes((tmp_path / "bad2.mp4").read_bytes() + b"\0\0\0\x08free")
    (tmp_path / "bad4.mp4").unlink()
    _, share = built(tmp_path / "cache", rows, FakePolicy())
    assert sorted(share.names) == [0, 1, 3, 5, 6]
    assert [(problem.line, "same frames" in problem.message) for problem in share.problems] == [(3, True), (5, False)]
