"""What a run folder must hold to be continued, and what is said of the rest."""

import shutil

import pytest
import yaml
from omegaconf import OmegaConf

from apo.adapter import lineage
from apo.errors import UserError
from apo.io.files import partial_name
from apo.modules.checkpoints import PREVIOUS
from apo.modules.loggers import MetricsCSV
from apo.resume import clean, require_same_run
from tests.checkpoints import leave_checkpoint
from tests.test_configs import composed


@pytest.fixture(scope="module")
def cfg():
    return composed()


@pytest.fixture
def folder(tmp_path, cfg):
    """Of a run at step 3, with two checkpoints."""
    OmegaConf.save(cfg, tmp_path / "config.yaml", resolve=True)
    lineage.begin(cfg, tmp_path)
    settings, metrics = OmegaConf.to_container(cfg, resolve=True), MetricsCSV(tmp_path)
    for step in range(4):
        metrics.log_metrics({"train/loss": 0.5}, step)
    leave_checkpoint(tmp_path, 2, name=PREVIOUS, settings=settings)
    leave_checkpoint(tmp_path, 3, settings=settings)
    return tmp_path


DAMAGE = [
    ("config.yaml", b"", "it lacks settings of a run"),
    ("config.yaml", b"run: [", "config.yaml is damaged"),
    ("config.yaml", b"\xff\x00", "config.yaml is damaged"),
    ("config.yaml", b"- 1", "it lacks settings of a run"),
    (
        "config.yaml",
        b"run: 1\nseed: 1\nmodel: 1\npolicy: 1\noptimizer: 1\n",
        "config.yaml is damaged .no pairs per step",
    ),
    (
        "config.yaml",
        b"run: !!python/object/apply:os.system [exit]\n",
        "config.yaml is damaged .*could not determine a constructor",
    ),
    ("config.yaml", b"a: &a [1]\nb: [*a, *a]\n", "config.yaml is damaged .it has YAML aliases"),
    ("start.json", b"", "start.json is damaged"),
    ("start.json", b"[1]", "start.json is damaged .it holds no names and hashes of files"),
    (
        "start.json",
        b'{"high_noise.safetensors": "00"}',
        "began with high_noise.safetensors 00, and adapter=None now holds no adapter",
    ),
    ("metrics.csv", b"\x00\xff\n", "metrics.csv is damaged"),
    ("metrics.csv", b"step,train/loss\n0,0.5\nhello,0.5\n", "metrics.csv is damaged .line 3 is no row of numbers"),
    ("metrics.csv", b"step,train/loss\n0,0.5\n1,x\n", "metrics.csv is damaged .could not convert"),
    ("metrics.csv", b"step,train/loss\n0,0.5\n1\n", "metrics.csv is damaged .line 3"),
    ("metrics.csv", b"step,train/loss\n0,0.5\n0,0.5\n", "metrics.csv is damaged .line 3: step 0 follows step 0"),
    (
        "metrics.csv",
        b"step,train/loss\n0,0.5\n2,0.5\n",
        "metrics.csv is damaged .no row of step 1, and the checkpoint is of step 3",
    ),
    ("metrics.csv", b"loss\n0.5\n", "metrics.csv is damaged"),
    *(
        ("metrics.csv", text, "metrics.csv is damaged .no row of step 0, and")
        for text in (b"", b"step,tr", b"moved to the archive\n")
    ),
]


@pytest.mark.parametrize("name, content, said", DAMAGE)
def test_damage_is_one_line_that_names_file_and_remedy(folder, cfg, name, content, said):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        require_same_run(cfg, folder)
    assert str(folder) in str(caught.value) and "delete" in str(caught.value) or "run=NAME" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_remedies_are_true(folder, cfg):
    assert require_same_run(cfg, folder).step == 3
    with (folder / "metrics.csv").open("a") as file:
        file.write("4,")  # a kill in the middle of a row
    assert require_same_run(cfg, folder).step == 3
    (folder / "config.yaml").unlink()
    (folder / "metrics.csv").unlink()
    assert require_same_run(cfg, folder).step == 3
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert require_same_run(cfg, folder).path.name == PREVIOUS
    shutil.rmtree(folder / "checkpoints")
    assert require_same_run(cfg, folder) is None


def test_another_runs_checkpoint_is_refused_though_the_folder_says_otherwise(folder, cfg):
    leave_checkpoint(folder, 3, settings=OmegaConf.to_container(composed("seed=1"), resolve=True))
    with pytest.raises(UserError, match=r"last.ckpt is of a run with other settings \(seed: 1 -> 0;"):
        require_same_run(cfg, folder)


def test_nothing_in_a_config_is_resolved_or_built(folder, cfg, monkeypatch):
    mark = folder / "mark"
    found = yaml.safe_load((folder / "config.yaml").read_text())
    found["sampler"] = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(mark)]}}
    found["optimizer"]["lr"] = "${oc.env:SECRET}"
    monkeypatch.setenv("SECRET", "a secret")
    (folder / "config.yaml").write_text(yaml.safe_dump(found))
    with pytest.raises(UserError, match="is of a run with other settings") as caught:
        require_same_run(cfg, folder)
    assert not mark.exists() and "a secret" not in str(caught.value)


def test_a_start_cleans_up_after_killed_ones(folder):
    strays = [
        partial_name(path)
        for path in (folder / "config.yaml", folder / "checkpoints" / "last.ckpt", folder / "adapter")
    ]
    strays[2].mkdir()
    strays[0].touch()
    strays[1].touch()
    (folder / "adapter").mkdir()
    (folder / "adapter" / "high_noise.safetensors").touch()  # of a version that wrote it in place
    clean(folder)
    assert (
        not any(path.exists() for path in (*strays, folder / "adapter"))
        and (folder / "checkpoints" / "last.ckpt").exists()
    )
