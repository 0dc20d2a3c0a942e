"""Damaged and foreign ranker folders are named before anything is loaded, and nothing in them is run."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from apo.errors import UserError
from apo.policies.model import VideoSpec
from apo.rankers.folders import CONFIG, SETTINGS, VIDEOS, WEIGHTS, base_hash, check_paths, model_folder, require_videos
from apo.rankers.vlm import RankingVLM
from tests.rankers.tiny import tiny_adapter

MODEL = "model.safetensors"


@pytest.fixture
def folders(base, adapter, tmp_path) -> tuple[Path, Path]:
    """A model and an adapter over it, to be damaged."""
    return shutil.copytree(base, tmp_path / "model"), shutil.copytree(adapter, tmp_path / "adapter")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return tiny_adapter(base, tmp_path_factory.mktemp("adapter") / "adapter", 1)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def rewritten(file: Path, change) -> None:
    save_file({name: change(name, value).contiguous() for name, value in load_file(file).items()}, file)


def settings(folder: Path, **changes) -> None:
    path = folder / (SETTINGS if (folder / SETTINGS).exists() else CONFIG)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("planted"),)


def unpickled_instead(model: Path) -> None:
    (model / MODEL).unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))


DAMAGES = {  # name -> (what is done to the model and the adapter, what is said)
    "cut weights": (
        lambda model, _: cut(model / MODEL),
        "ranker.path: .*model.safetensors is missing, truncated or damaged.*copy",
    ),
    "no weights": (
        lambda model, _: (model / MODEL).write_bytes(b""),
        "model.safetensors is missing, truncated or damaged",
    ),
    "weights that are unpickled": (
        lambda model, _: unpickled_instead(model),
        "no .safetensors there; .*can run code and are not read",
    ),
    "integer weights": (
        lambda m, _: rewritten(m / MODEL, lambda _, w: w.to(torch.int32)),
        "holds no floating-point numbers",
    ),
    "a cut config": (lambda model, _: cut(model / CONFIG), "config.json is damaged .*copy the folder again"),
    "a config that is a list": (
        lambda model, _: (model / CONFIG).write_text("[]"),
        "config.json is damaged, it holds no JSON object",
    ),
    "a cut tokenizer": (lambda model, _: cut(model / "tokenizer.json"), "tokenizer.json is damaged"),
    "deep nesting": (lambda model, _: (model / CONFIG).write_text("[" * 10**5), "config.json is damaged"),
    "another kind of model": (
        lambda model, _: settings(model, model_type="llama"),
        "model_type='llama', and rankers are Qwen3-VL",
    ),
    "a cut adapter": (
        lambda _, adapter: cut(adapter / WEIGHTS),
        "ranker.adapter: .*adapter_model.safetensors is missing, truncated",
    ),
    "an adapter without weights": (
        lambda _, adapter: (adapter / WEIGHTS).unlink(),
        "adapter_model.safetensors is missing",
    ),
    "NaN": (
        lambda _, a: rewritten(a / WEIGHTS, lambda _, w: w * float("nan")),
        "holds NaN or infinity; train the adapter again",
    ),
    "cut settings": (lambda _, adapter: cut(adapter / SETTINGS), "adapter_config.json is damaged"),
    "another rank": (lambda _, adapter: settings(adapter, r=3), "does not hold LoRA weights of the rank r=3"),
    "a rank that is a text": (lambda _, adapter: settings(adapter, r="2"), "r=2 lora_alpha"),
    "an infinite alpha": (lambda _, adapter: settings(adapter, lora_alpha=float("inf")), "lora_alpha=inf"),
    "targets by a pattern": (
        lambda _, adapter: settings(adapter, target_modules="(a+)+$"),
        "target_modules=.*write a list",
    ),
    "no LoRA": (lambda _, adapter: settings(adapter, peft_type="IA3"), "peft_type=IA3, and only plain LoRA is read"),
    "weights that change otherwise": (
        lambda _, adapter: settings(adapter, use_dora=True),
        "use_dora=True, and only plain LoRA is read",
    ),
    "a module to import": (
        lambda _, a: settings(a, megatron_config={"a": 1}, megatron_core="antigravity"),
        "megatron_config=.*plain LoRA",
    ),
    "another size": (
        lambda _, a: rewritten(a / WEIGHTS, lambda n, w: w[:, :5] if "lora_A" in n else w),
        "trained over another model",
    ),
    "other modules": (
        lambda _, a: save_file({f"other.{name}": value for name, value in load_file(a / WEIGHTS).items()}, a / WEIGHTS),
        "has no .*other",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_before_anything_is_loaded(name, folders, monkeypatch, tmp_path):
    damage, said = DAMAGES[name]
    monkeypatch.chdir(tmp_path)
    damage(*folders)
    with pytest.raises(UserError, match=said) as raised:
        check_paths("ranker", *map(str, folders))
    assert "\n" not in str(raised.value) and not Path("planted").exists()


def test_a_missing_torchvision_is_named_with_the_remedy(folders, monkeypatch):
    monkeypatch.setattr("apo.rankers.folders.find_spec", lambda name: None)
    with pytest.raises(UserError, match="ranker.path=.*: Qwen3-VL needs torchvision: install its release"):
        check_paths("ranker", str(folders[0]), None)


def test_whole_folders_are_let_through_wherever_the_adapters_base_was(folders):
    settings(folders[1], base_model_name_or_path="someone/elses-model", auto_mapping={"parent_library": "antigravity"})
    check_paths("ranker", *map(str, folders))
    RankingVLM(str(folders[0]), "float32", 4, 8.0).load_adapter(str(folders[1]))


def test_what_only_loading_shows_is_one_line_too(folders, monkeypatch, tmp_path):
    model, adapter = folders
    vlm = RankingVLM(str(model), "float32", 4, 8.0)
    settings(adapter, target_modules=["somewhere"])
    with pytest.raises(UserError, match="adapter.*somewhere"):
        vlm.load_adapter(str(adapter))
    whole = load_file(model / MODEL)
    for change, said in (
        (
            lambda weights: weights | {list(weights)[3]: weights[list(weights)[3]] * float("nan")},
            "holds NaN or infinity",
        ),
        (lambda weights: dict(list(weights.items())[2:]), "weights are missing"),
        (
            lambda weights: weights | {list(weights)[3]: torch.zeros(3, 3)},
            "can't load this ranking model|weights are missing",
        ),
    ):
        save_file(change(whole), model / MODEL, {"format": "pt"})
        with pytest.raises(UserError, match=said) as raised:
            RankingVLM(str(model), "float32", 4, 8.0)
        assert "\n" not in str(raised.value)
    save_file(whole, model / MODEL, {"format": "pt"})
    (model / "mine.py").write_text("open('planted', 'w')")
    settings(
        model, auto_map={"AutoModel": "mine.Model", "AutoProcessor": "mine.Processor", "AutoConfig": "mine.Config"}
    )
    monkeypatch.chdir(tmp_path)
    RankingVLM(str(model), "float32", 4, 8.0)
    assert not Path("planted").exists()


def test_a_model_that_is_not_here_and_can_not_be_fetched_is_one_line_with_the_remedy():
    for refuse in (lambda: check_paths("vlm", "someone/model", None), lambda: model_folder("someone/model")):
        with pytest.raises(
            UserError, match="path=someone/model: it is not on this disk, and the hub .*`hf download someone/model`"
        ):
            refuse()


def test_a_model_may_say_which_videos_it_judges(base, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(base, folder)
    before, spec = base_hash(folder), VideoSpec(64, 64, 9, 8.0)
    require_videos("ranker.path", str(folder), spec)
    (folder / VIDEOS).write_text('{"of": "cats", "frames": 17, "height": 64, "width": 64}')
    said = (
        "ranker.path=.*own needs videos of cats, 17 frames of 64 x 64, and model.spec has 9 of 64 x 64: use a model of"
    )
    with pytest.raises(UserError, match=said):
        require_videos("ranker.path", str(folder), spec)
    require_videos("ranker.path", str(folder), VideoSpec(64, 64, 17, 8.0))
    assert base_hash(folder) == before  # adapters over it stay its own
    (folder / VIDEOS).write_text('{"of": "cats"}')
    with pytest.raises(UserError, match="videos.json does not say 'frames'"):
        require_videos("ranker.path", str(folder), spec)
