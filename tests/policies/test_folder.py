"""Pipeline folders that are damaged or hostile: what is wrong is said before anything of them is loaded, or when it is
read.
"""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from apo.errors import UserError
from apo.policies import sharding
from apo.policies.loading import pipeline_of
from apo.policies.model import VideoSpec, WanModel, downloaded

SPEC = VideoSpec(32, 48, 9, 8)
WEIGHTS = "transformer_2/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(wan22_folder, tmp_path):
    return shutil.copytree(wan22_folder, tmp_path / "wan22")


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("payload"),)


def replaced(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "transformer_2" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Payload()))


def named(part: str, value):
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {part: value}))

    return change


def with_weight(make):
    def change(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        key = "blocks.0.attn1.to_q.weight"
        state[key] = make(state[key])
        save_file({key: value for key, value in state.items() if value is not None}, folder / WEIGHTS, {"format": "pt"})

    return change


def shards_lost(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "transformer_2" / "diffusion_pytorch_model-00001-of-00002.safetensors")
    names = {
        "a": "diffusion_pytorch_model-00001-of-00002.safetensors",
        "b": "diffusion_pytorch_model-00002-of-00002.safetensors",
    }
    (folder / (WEIGHTS + ".index.json")).write_text(json.dumps({"weight_map": names}))


BEFORE = {
    "an index that is none": (replaced("model_index.json", b"{}"), "model_index.json is no pipeline's"),
    "a cut index": (replaced("model_index.json", b"{"), "model_index.json is missing or damaged"),
    "a config of random bytes": (
        replaced("transformer/config.json", b"\xff\x00"),
        "transformer/config.json is missing or damaged",
    ),
    "a config that is none": (
        replaced("vae/config.json", b"[1]"),
        "vae/config.json is missing or damaged .it holds no settings",
    ),
    "empty weights": (replaced(WEIGHTS, b""), f"{WEIGHTS} is damaged"),
    "random weights": (replaced(WEIGHTS, bytes(range(256))), f"{WEIGHTS} is damaged"),
    "cut weights": (cut, f"{WEIGHTS} is damaged"),
    "lost weights": (lambda folder: (folder / WEIGHTS).unlink(), "transformer_2 has no safetensors"),
    "a lost shard": (shards_lost, "transformer_2/diffusion_pytorch_model-00002-of-00002.safetensors is missing"),
    "pickled weights": (pickled, "diffusion_pytorch_model.bin is a pickle, which could run code: give safetensors"),
    "whole numbers": (with_weight(lambda weight: weight.int()), "blocks.0.attn1.to_q.weight is of I32"),
    "code": (replaced("vae/diffusers.py", b"raise SystemExit"), "vae/diffusers.py is code, which is not run"),
    "another library": (named("vae", ["os", "system"]), "model_index.json takes vae from 'os'"),
    "a library of its own": (
        named("transformer", ["payload", "Model"]),
        "model_index.json takes transformer from 'payload'",
    ),
}


@pytest.mark.parametrize("kind", BEFORE)
def test_damage_is_named_before_anything_is_loaded(folder, kind, monkeypatch):
    damage, said = BEFORE[kind]
    monkeypatch.chdir(folder.parent)
    model = WanModel(
        str(folder),
        SPEC,
        shift=5.0,
        num_inference_steps=4,
        boundary=0.9,
        omega={},
        max_sequence_length=16,
        negative_prompt="",
        lora_targets=(),
        dtype="float32",
    )
    model.check()
    model.check_weights()
    damage(folder)
    with pytest.raises(UserError, match=said) as caught:
        model.check()
        model.check_weights()
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value) and not Path("payload").exists()


ON_LOADING = {
    "nan": (
        with_weight(lambda weight: weight.fill_(float("nan"))),
        "blocks.0.attn1.to_q.weight has values that are not finite",
    ),
    "one inf": (
        with_weight(lambda weight: weight.index_fill_(0, torch.tensor([0]), float("inf"))),
        "to_q.weight has values",
    ),
    "a lost weight": (with_weight(lambda weight: None), "transformer_2 has 1 weights too few, blocks.0.attn1.to_q"),
    "another shape": (with_weight(lambda weight: weight[:1].clone()), "diffusers can't load it"),
    "another model": (
        replaced("vae/config.json", b'{"_class_name": "AutoencoderKLWan", "base_dim": 4}'),
        "diffusers can't load it",
    ),
}


@pytest.mark.parametrize("kind", ON_LOADING)
def test_what_only_loading_shows_is_named(folder, kind):
    damage, said = ON_LOADING[kind]
    damage(folder)
    with pytest.raises(UserError, match=said) as caught:
        pipeline_of(folder)
    assert (
        str(folder) in str(caught.value)
        and "\n" not in str(caught.value)
        and "copy the pipeline folder again" in str(caught.value)
    )


def test_a_rank_that_reads_a_slice_finds_what_is_not_finite_in_it(folder):
    ON_LOADING["nan"][0](folder)
    expert = sharding.without_data(folder / "transformer_2", torch.float32)
    with pytest.raises(UserError, match="a stored tensor of shape .* has values that are not finite"):
        sharding.fill(expert, folder / "transformer_2", "cpu")


def test_a_model_that_is_nowhere_is_refused_with_the_remedy():
    with pytest.raises(UserError, match="^model.path=nobody/nothing: not on this disk.*give its folder as model.path$"):
        downloaded("nobody/nothing")
