"""Exports against diffusers itself: its loader reads our ComfyUI layout back, its pipeline routes as our names say."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from apo import export
from apo.export import Adapter, ExportError, main, original_name
from apo.io import files
from apo.policies.adapter import FILES
from tests.adapters import finished
from tests.builds import SPECS, load, sample
from tests.policies.test_wan import LORA, make, perturbed

WITH_IMAGE = LORA | {"targets": [*LORA["targets"], "add_k_proj", "add_v_proj"]}


@pytest.fixture
def adapter(request, tmp_path):
    """style, lora -> a finished adapter that matters."""

    def build(style: str = "wan22", lora: dict = LORA, **changes) -> Path:
        return finished(tmp_path / "run", perturbed(make(request, style, lora, **changes)), lora, "run=trial")

    return build


def read_by_diffusers(file: Path) -> dict[str, torch.Tensor]:
    return WanImageToVideoPipeline.lora_state_dict(file.parent, weight_name=file.name)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize(
    "style, lora, names",
    [
        (
            "wan22",
            LORA,
            {
                "transformer": "trial_offline_high_noise.safetensors",
                "transformer_2": "trial_offline_low_noise.safetensors",
            },
        ),
        ("wan21", WITH_IMAGE, {"transformer": "trial_offline.safetensors"}),
        ("ti2v", LORA, {"transformer": "trial_offline.safetensors"}),
    ],
)
def test_diffusers_reads_the_comfy_layout_back_bit_for_bit(adapter, tmp_path, style, lora, names):
    folder = adapter(style, lora)
    main([str(folder), "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names.values())
    for expert, name in names.items():
        file = tmp_path / "out" / name
        assert all(key.startswith("diffusion_model.blocks.") for key in load_file(file))
        assert same(read_by_diffusers(file), load_file(folder / FILES[expert]))


def test_another_alpha_goes_along_and_scales_what_diffusers_reads(adapter, tmp_path):
    folder = adapter(lora=LORA | {"alpha": 8})
    main([str(folder), "--out", str(tmp_path / "out"), "--expert", "low"])
    (file,) = (tmp_path / "out").iterdir()
    theirs, ours = load_file(file), load_file(folder / FILES["transformer_2"])
    name = "blocks.1.cross_attn.v"
    assert theirs[f"diffusion_model.{name}.alpha"] == 8
    assert torch.equal(
        theirs[f"diffusion_model.{name}.lora_B.weight"], ours["transformer.blocks.1.attn2.to_v.lora_B.weight"]
    )
    read = read_by_diffusers(file)  # folds alpha / rank = 2 into the matrices: exact, as a power of two
    for module, made in Adapter(folder).deltas("transformer_2").items():
        a, b = (read[f"transformer.{module.removesuffix('.weight')}.lora_{part}.weight"] for part in "AB")
        assert_close(b @ a, made(), rtol=1e-6, atol=1e-6)


def test_high_is_the_expert_that_diffusers_asks_at_high_noise(adapter, request, tmp_path):
    folder = adapter()
    main([str(folder), "--out", str(tmp_path / "high"), "--expert", "high"])
    main([str(folder), "--out", str(tmp_path / "low"), "--expert", "low"])
    asked, pipeline = {"transformer": [], "transformer_2": []}, load(request.getfixturevalue("wan22_folder"))
    for name, seen in asked.items():
        getattr(pipeline, name).register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.extend(kwargs["timestep"].tolist()), with_kwargs=True
        )
    sample(pipeline, SPECS["wan22"], num_inference_steps=8)
    boundary = 1000 * pipeline.config.boundary_ratio
    assert asked["transformer"] and min(asked["transformer"]) >= boundary
    assert asked["transformer_2"] and max(asked["transformer_2"]) < boundary
    policy = make(request, "wan22")
    assert policy.expert(torch.tensor([min(asked["transformer"])])) is policy.experts["transformer"]
    assert policy.expert(torch.tensor([max(asked["transformer_2"])])) is policy.experts["transformer_2"]
    for part, expert in (("high", "transformer"), ("low", "transformer_2")):
        (file,) = (tmp_path / part).iterdir()
        assert same(read_by_diffusers(file), load_file(folder / FILES[expert]))


@pytest.mark.parametrize("style", ["wan21", "wan22"])
def test_a_fused_pipeline_is_the_base_with_the_adapter(adapter, request, tmp_path, style):
    folder = adapter(style)
    main([str(folder), "--out", str(tmp_path / "fused"), "--fuse"])
    fused, base = load(tmp_path / "fused"), load(request.getfixturevalue(f"{style}_folder"))
    base.load_lora_weights(folder, weight_name="high_noise.safetensors", adapter_name="apo")
    if style == "wan22":
        base.load_lora_weights(
            folder, weight_name="low_noise.safetensors", adapter_name="low", load_into_transformer_2=True
        )
    assert_close(sample(fused, SPECS[style]), sample(base, SPECS[style]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "style, lora, alone", [("wan21", WITH_IMAGE, True), ("wan22", LORA, False), ("ti2v", LORA, True)]
)
def test_fused_weights_in_the_original_layout_are_those_that_diffusers_converts_back(
    adapter, tmp_path, style, lora, alone
):
    folder = adapter(style, lora)
    main([str(folder), "--out", str(tmp_path / "pipeline"), "--fuse"])
    main([str(folder), "--out", str(tmp_path / "original"), "--fuse", "original"])
    names = (
        {"transformer": "fused_trial_offline.safetensors"}
        if alone
        else {key: f"fused_trial_offline_{name}" for key, name in FILES.items()}
    )
    assert {path.name for path in (tmp_path / "original").iterdir()} == set(names.values())
    for expert, name in names.items():
        found = load_file(tmp_path / "original" / name)
        assert {
            "head.modulation",
            "head.head.weight",
            "time_projection.1.bias",
            "blocks.0.norm3.weight",
        } <= found.keys()
        assert (
            ("img_emb.proj.4.weight" in found)
            == ("blocks.0.cross_attn.norm_k_img.weight" in found)
            == (style == "wan21")
        )
        fused = load_file(tmp_path / "pipeline" / expert / "diffusion_pytorch_model.safetensors")
        assert same(convert_wan_transformer_to_diffusers(found), fused)


def test_fusing_one_expert_leaves_every_other_byte(adapter, request, tmp_path, capsys):
    folder, base = adapter(), request.getfixturevalue("wan22_folder")
    main([str(folder), "--out", str(tmp_path / "fused"), "--fuse", "--expert", "low"])
    assert "rounding took 0.00%" in capsys.readouterr().out
    changed = {
        str(file.relative_to(base))
        for file in base.rglob("*")
        if file.is_file() and file.read_bytes() != (tmp_path / "fused" / file.relative_to(base)).read_bytes()
    }
    assert changed == {"transformer_2/diffusion_pytorch_model.safetensors"}
    file = "transformer_2/diffusion_pytorch_model.safetensors"
    before, after = load_file(base / file), load_file(tmp_path / "fused" / file)
    deltas = {key: made() for key, made in Adapter(folder).deltas("transformer_2").items()}
    assert all(torch.equal(after[key], before[key] + deltas[key] if key in deltas else before[key]) for key in before)
    with safe_open(tmp_path / "fused" / file, "pt") as stream:
        assert stream.metadata() == {"format": "pt"}


def test_runs_in_folders_are_exported_readably_and_only_once(request, tmp_path):
    folder = finished(tmp_path / "run", perturbed(make(request, "wan21", LORA)), LORA, "run=curriculum/seed_0")
    main([str(folder), "--out", str(tmp_path / "out")])
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == "curriculum_seed_0_offline.safetensors"
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode == (folder / FILES["transformer"]).stat().st_mode
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        SystemExit, match="is there already, of another adapter or damaged: delete it, or give another --out"
    ):
        main([str(folder), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="plain is a file: give a folder"):
        main([str(folder), "--out", str(tmp_path / "plain")])
    with pytest.raises(SystemExit, match="model.path=.*nowhere: no model_index.json there.*--base names the pipeline"):
        main([str(folder), "--out", str(tmp_path / "fused"), "--fuse", "--base", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("more", [[], ["--fuse"], ["--fuse", "original"]])
def test_an_export_that_fails_leaves_nothing_that_would_stop_the_next(adapter, tmp_path, monkeypatch, more):
    folder, written, real = adapter(), [], export.write_tensors

    def full(path, *rest):
        written.append(path)
        if len(written) == 2:
            raise OSError("no space left")
        real(path, *rest)

    monkeypatch.setattr(export, "write_tensors", full)
    for said in ("no space left", None):
        if said is None:
            main([str(folder), "--out", str(tmp_path / "out"), *more])
        else:
            with pytest.raises(SystemExit, match=said):
                main([str(folder), "--out", str(tmp_path / "out"), *more])
    assert len(written) == 4


def test_mistakes_are_found_before_anything_is_written(adapter, request, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="no lineage.json there"):
        main([str(tmp_path), *out])
    single = adapter("wan21")
    with pytest.raises(SystemExit, match="--expert low: .* has only transformer"):
        main([str(single), *out, "--expert", "low"])
    with pytest.raises(SystemExit, match="trained on .* give that pipeline as --base"):
        main([str(single), *out, "--fuse", "--base", str(request.getfixturevalue("wan22_folder"))])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(SystemExit, match="is not empty"):
        main([str(single), "--out", str(tmp_path / "full"), "--fuse"])
    with pytest.raises(ExportError, match="condition_embedder.time_proj: only attention and feed-forward"):
        original_name("condition_embedder.time_proj")
    assert not (tmp_path / "out").exists()


LAYOUTS = pytest.mark.parametrize(
    "more", [[], ["--fuse"], ["--fuse", "original"]], ids=["lora", "pipeline", "original"]
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Killed(BaseException):
    """In the place of SIGKILL: what it leaves is made to stay, too."""


@LAYOUTS
def test_an_export_killed_at_any_write_is_completed_by_the_same_command(adapter, tmp_path, monkeypatch, capsys, more):
    folder, real, out = adapter(), os.fsync, tmp_path / "exports" / "out"
    command = [str(folder), "--out", str(out), *more]
    main(command)
    whole, calls = contents(out), [0]
    main(command)
    assert "complete already" in capsys.readouterr().out and contents(out) == whole
    shutil.rmtree(out)

    def killed(last: int):
        def fsync(descriptor):
            calls[0] += 1
            if calls[0] == last:
                raise Killed
            real(descriptor)

        return fsync

    for last in range(1, 30):
        calls[0] = 0
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(files, "remove", lambda path: None)  # a killed process takes nothing away
            patch.setattr(os, "fsync", killed(last))
            main(command)
        if calls[0] < last:
            break
        assert not out.exists() or contents(out) == whole, last
    else:
        raise AssertionError("it never came to its end")
    main(command)
    assert last > 3 and contents(out) == whole and {path.name for path in out.parent.iterdir()} == {"out"}


@pytest.mark.parametrize("kept", [0, 1])
def test_a_set_in_a_folder_of_the_user_is_completed_and_his_files_stay(adapter, tmp_path, kept):
    folder, out = adapter(), tmp_path / "loras"
    out.mkdir()
    (out / "mine.safetensors").write_bytes(b"mine")
    command = [str(folder), "--out", str(out)]
    main(command)
    whole = contents(out)
    sorted(out.glob("trial*"))[kept].unlink()
    main(command)
    assert contents(out) == whole and len(whole) == 3 and whole["mine.safetensors"] == b"mine"
