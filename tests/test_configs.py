"""Every option of every group composes, and what it names exists."""

from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from apo import run
from apo.checks import ConfigError, check
from apo.config.compose import compose
from apo.config.suggestions import options
from apo.modules.loggers import MetricsCSV
from apo.places import CONF
from apo.resume import differences
from apo.run import StepSampler
from tests.checkpoints import leave_checkpoint
from tests.data.clips import write_jsonl

ROOT = Path(__file__).parents[1]
GROUPS = {
    group: options(group)
    for group in (
        "stage",
        "sampler",
        "objective",
        "guidance",
        "data",
        "model",
        "trainer",
        "logger",
        "ranker",
        "distill",
    )
}
ABLATIONS = sorted(p.stem for p in (ROOT / "experiments" / "ablation").glob("*.yaml"))
CURRICULUM = ["1_online", "2_half_online", "3_offline", "4_distill", "5_distill_dpo"]


def composed(*overrides: str, name: str = "train") -> DictConfig:
    return compose(name, overrides)


def targets(node) -> list[str]:
    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    if isinstance(plain, dict):
        return [plain[k] for k in plain if k == "_target_"] + [t for v in plain.values() for t in targets(v)]
    return [t for v in plain for t in targets(v)] if isinstance(plain, list) else []


OPTIONS = [f"{group}={option}" for group, options in GROUPS.items() for option in options]
OPTIONS += [f"ablation={name}" for name in ABLATIONS]
OPTIONS += [
    f"{group}={p.stem}" for group in ("paper", "cheaper") for p in sorted((ROOT / "experiments" / group).glob("*.yaml"))
]
OPTIONS += [f"curriculum={folder}{name}" for folder in ("", "quick/") for name in CURRICULUM]


@pytest.mark.parametrize("override", OPTIONS)
def test_every_option_composes_and_names_real_classes(override):
    cfg = composed(override)
    for target in targets(cfg):
        get_class(target)
    sample = instantiate(cfg.sampler).sample(0, 3)
    assert sample.shape[1] == 3 and sample.min() >= 0 and sample.max() <= 1000


@pytest.mark.parametrize(
    "more, folder",
    [
        (["paper=table1", "ablation=apo"], "ablation_apo-seed_1"),
        (["paper=cheaper", "cheaper=cache"], "cheaper_cache-seed_1"),
        (["paper=online", "ranker.error_rate=0.1"], "ranker.error_rate_0.1-seed_1"),
        (["paper=half_online"], "seed_1"),
        (["paper=rs_ro_distilled", "arm=wo_rs_ro"], "arm_wo_rs_ro-seed_1"),
    ],
)
def test_folders_of_the_papers_sweeps_are_those_that_the_studies_evaluate(more, folder):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [*more, "seed=1", "max_steps=7"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        assert cfg.hydra.sweep.subdir == folder


@pytest.mark.parametrize(
    "name, blocks", [("tiny", [1]), ("wan22_i2v_a14b", [8]), ("wan21_i2v_14b", [8]), ("wan22_ti2v_5b", [8])]
)
def test_each_model_is_distilled_from_its_own_guidance(name, blocks):
    teacher = composed("stage=distill", f"model={name}").module.loss.distill.guidance
    assert list(teacher.blocks) == blocks and teacher.batched == (name == "tiny")


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("optimizer.lr=-1", "optimizer.lr=-1: give a number of at least 0"),
        ("max_grad_norm=0", "max_grad_norm=0: give a number above 0"),
        ("optimizer.lr=abc", "optimizer.lr=abc"),
        ("warmup_steps=null", "warmup_steps=null: give a whole number of at least 0"),
        ("objective.beta=-5", "objective.beta=-5"),
        ("policy.lora.alpha=abc", "policy.lora.alpha=abc"),
        ("data.count=0", "data.count=0"),
        ("model.boundary=1.5", "model.boundary=1.5: give a share, from 0 to 1, or null for a model with one expert"),
        ("model.shift=0", "model.shift=0"),
        ("model.spec.fps=-1", "model.spec.fps=-1"),
        ("model.spec.frames=-3", "model.spec.frames=-3"),
        ("sampler.stride=-1", "sampler.stride=-1"),
        ("sampler.high_rows=-1", "sampler.high_rows=-1"),
        ("sampler.shifts=3", "sampler.shifts=3"),
        ("sampler.shifts=[]", r"sampler.shifts=\[\]: give a list"),
        ("sampler.offset_variance=-1", "offset_variance=-1: give a number"),
        ("trainer.threads=-1", "trainer.threads=-1: .* or null for torch's own"),
        ("trainer=gpu", r"torch sees 0 GPU\(s\) here; give trainer=cpu"),
        ("trainer.accelerator=tpu", "trainer.accelerator=tpu: give one of cpu, gpu"),
        ("trainer.split_backward=maybe", "trainer.split_backward=maybe: give true or false"),
        ("checkpoint_every_n_steps=0", "checkpoint_every_n_steps=0: give a whole number of at least 1"),
        ("decay_steps=0", "or null for a rate that stays"),
        ("trainer.devices=auto", "trainer.devices=auto: give a whole number"),
        ("policy.lora.rank=0", "policy.lora.rank=0"),
        ("seed=-1", "seed=-1: give a whole number of at least 0"),
        ("model.num_inference_steps=2", "no step lies below 0.8 T"),
        ("model.dtype=bf16", "model.dtype=bf16: give one of float32"),
        ("model.spec.height=60", "model.spec.height=60: must be a multiple of 16; the nearest is 64"),
        ("model.boundary=null", "set a boundary"),
        ("model.decode_tile=30", "model.decode_tile=30: give a multiple of 32"),
    ],
)
def test_numbers_that_can_not_be_are_refused_before_anything_is_loaded(wrong, said, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match=said):
        check(composed(wrong), tmp_path)


def test_groups_hold_what_design_promises():
    assert {"apo", "uniform", "logit_normal"} <= set(GROUPS["sampler"]) and {"dpo", "ipo"} <= set(GROUPS["objective"])
    assert {"tiny", "tiny_wan21", "wan22_i2v_a14b", "wan21_i2v_14b", "wan22_ti2v_5b"} <= set(GROUPS["model"])
    promised = "wo_rs wo_ro wo_rs_ro high_only low_only no_window uniform_window diffusion_dpo logit_normal"
    assert set(promised.split()) <= set(ABLATIONS)


def test_ablations_differ_from_apo_where_they_say():
    base = OmegaConf.to_container(composed("ablation=apo").sampler, resolve=True)

    def changed(name: str) -> dict:
        sampler = OmegaConf.to_container(composed(f"ablation={name}").sampler, resolve=True)
        return {k: v for k, v in sampler.items() if base.get(k) != v}

    assert changed("wo_rs") == {"shifts": [6.0]}
    assert changed("wo_ro") == {"offset_variance": 0}
    assert changed("wo_rs_ro") == {"shifts": [6.0], "offset_variance": 0}
    assert changed("high_only") == {"high_rows": 5, "low_rows": 0, "stride": 5}
    assert changed("low_only") == {"high_rows": 0, "low_rows": 5}
    assert changed("no_window") == {"accumulate": False}


@pytest.mark.parametrize("pace, folder", [("", "curriculum"), ("quick/", "curriculum_quick")])
def test_every_stage_of_the_curriculum_starts_where_the_one_before_ends(pace, folder):
    before, steps = None, []
    for name in CURRICULUM:
        cfg = composed(f"curriculum={pace}{name}", "seed=2")
        assert cfg.run == f"{folder}/seed_2" and cfg.stage.name == name[2:]
        assert cfg.adapter == (None if before is None else f"outputs/{cfg.run}/{before}/adapter")
        assert cfg.policy.adapter == cfg.adapter
        before = cfg.stage.name
        steps.append(cfg.max_steps)
    assert steps == ([200] * 5 if pace == "" else [20] * 5)  # the last one is Sec. 4.3's


def test_students_need_no_guidance_and_teachers_have_it():
    student, teacher = (
        composed("stage=distill_dpo", "model=wan22_i2v_a14b"),
        composed("stage=distill", "model=wan22_i2v_a14b"),
    )
    assert student.guidance._target_ == teacher.stage.sample_guidance._target_ == teacher.data.guidance._target_
    assert teacher.module.loss.distill.guidance._target_.endswith("CFGSTG") and student.guidance._target_.endswith(
        "NoGuidance"
    )
    assert student.data.generator == "start"  # the student's own videos
    assert composed("stage=distill", "guidance=cfg").distill.guidance._target_.endswith("cfg.CFG")
    offline = composed("stage=distill_dpo", "data=pairs", "data.path=a.jsonl")
    assert offline.data._target_.endswith("UserPairs") and offline.module.pairs._target_.endswith("OfflinePairs")


def test_arms_cost_the_same():
    pairs = {}
    for name in ABLATIONS:
        cfg = composed(f"ablation={name}")
        pairs[name] = cfg.max_steps * instantiate(cfg.sampler).sample(0, 1).shape[0] * cfg.batch_size
    assert set(pairs.values()) == {4000}


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["data=pairs"], "data.path"),
        (["model.path=./nowhere"], "model.path=./nowhere"),
        (["adapter=outputs/nowhere"], "adapter=outputs/nowhere"),
        (["policy.lora=null"], "policy.lora=null"),
        (["sampler.high_rows=0", "sampler.low_rows=0"], "sampler.high_rows"),
        (["data=pairs", "data.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["model=tiny_wan21"], "data=world_pairs"),
        (
            ["data=world_prompts"],
            "stage=offline trains on pairs, and this data= gives prompts: use data=world_pairs, or data=pairs",
        ),
        (
            ["stage=online", "data=world_pairs"],
            "stage=online trains on prompts, and this data= gives pairs: use data=world_prompts",
        ),
        (["stage=half_online", "data=world_prompts"], "stage=half_online trains on anchors.*use data=world_anchors"),
        (["stage=sft", "data=world_anchors"], "stage=sft trains on pairs"),
        (["stage=online", "data=prompts"], "data.path"),
        (["stage=online", "model=tiny_wan21"], "data=world_prompts needs videos of the world"),
        (
            ["stage=online", "model=tiny_wan21", "data=prompts", "data.path={manifest}"],
            "ranker=oracle needs videos of the world",
        ),
        (["stage=online", "ranker.error_rate=0.7"], "ranker.error_rate=0.7"),
        (["stage=online", "policy.lora=null"], "policy.lora=null"),
        (["stage=online", "ranker=by_domain", "ranker.domains.default=people"], "domain='people'"),
        (["stage=online", "module.pairs.candidates=1"], "module.pairs.candidates=1"),
        (["stage=online", "module.pairs.rollout.cache_threshold=-1"], "rollout.cache_threshold=-1"),
        (
            ["stage=online", "module.windows_per_pair=4"],
            "checkpoint_every_n_steps=10 is no multiple of module.windows_per_pair=4: give .*=8",
        ),
        (["ema_decay=1.0"], "ema_decay=1.0: give a share above 0 and below 1, or null"),
        (["stage=ranker", "ema_decay=0.9"], "ema_decay=0.9: only a stage that trains Wan"),
        (
            ["stage=sft", "policy.lora=null"],
            "policy.lora=null trains all weights, and a run leaves an adapter: give policy.lora.rank",
        ),
        (
            ["trainer=fsdp", "trainer.shard=3", "trainer.devices=8"],
            "trainer.shard=3: give node, all or a divisor of the 1 x 8 processes",
        ),
        (
            ["trainer=fsdp", "trainer.shard=nodes"],
            "trainer.shard=nodes: give node, all or a divisor of the 1 x 2 processes",
        ),
        (
            ["trainer=fsdp", "trainer.shard=null"],
            "trainer.shard=null: this trainer= needs node, all or a number",
        ),
        (
            ["trainer.devices=2"],
            "trainer.devices=2: .* is for one process, and there are 1 x 2: give trainer=fsdp, or trainer=ddp",
        ),
        (["trainer.shard=node"], "trainer.shard=node: .* holds all weights: leave it null, or give trainer=fsdp"),
        (
            ["trainer.context_parallel=2"],
            "trainer.context_parallel=2: .* gives every process pairs of its own; .*fsdp",
        ),
        (["trainer=ddp", "trainer.context_parallel=2"], "trainer.context_parallel=2: .* pairs of its own"),
        (
            ["trainer=fsdp", "trainer.context_parallel=3", "trainer.devices=4"],
            "context_parallel=3: give a divisor of the 1 x 4 processes",
        ),
        (["trainer=fsdp", "trainer.context_parallel=0"], "trainer.context_parallel=0: give a divisor"),
        (
            ["trainer=fsdp", "trainer.context_parallel=4", "trainer.devices=4"],
            "=4: the model has 2 attention heads .* one of 1, 2, or",
        ),
        (
            [
                "trainer=fsdp",
                "trainer.context_parallel=8",
                "trainer.devices=8",
                "model=wan22_i2v_a14b",
                "data=pairs",
                "data.path={manifest}",
            ],
            "trainer.context_parallel=8: the model has 40 attention heads and a video 83,700 tokens.*one of 1, 2, 4, "
            "5, 10, 20",
        ),
        (
            ["trainer=fsdp", "trainer.context_parallel=2", "guidance=cfg_stg", "guidance.blocks=[0, 1]"],
            r"guidance.blocks=\[0, 1\]: .*block 0",
        ),
        (
            [
                "trainer=fsdp",
                "trainer.context_parallel=2",
                "stage=half_online",
                "module.pairs.rollout.cache_threshold=0.1",
            ],
            "cache_threshold=0.1: what the first block changes is not known whole where trainer.context_parallel=2",
        ),
        (["trainer=fsdp", "stage=ranker"], "trainer=fsdp shards Wan's transformers"),
    ],
)
def test_mistakes_are_found_without_a_model(overrides, said, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    manifest = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "a thing", "image": "a.png"}])
    with pytest.raises(ConfigError, match=said):
        check(composed(*(o.replace("{manifest}", str(manifest)) for o in overrides)), tmp_path)


@pytest.mark.parametrize("stage", ["sft", "offline", "online", "half_online", "distill"])
def test_a_stage_selects_its_data_and_the_command_line_wins(stage, tmp_path):
    cfg = composed(f"stage={stage}")
    assert cfg.stage.name == stage and get_class(cfg.data._target_).gives == cfg.stage.data
    check(cfg, tmp_path)
    other = composed(f"stage={stage}", "data=anchors", "data.path=a.jsonl")
    assert other.data._target_.endswith("UserAnchors") and other.data.path == "a.jsonl"


@pytest.mark.parametrize("stage", ["online", "half_online", "offline", "distill", "distill_dpo"])
def test_large_models_train_as_section_4_1_says_and_the_tiny_one_as_it_was_searched(stage):
    for model in ("wan22_i2v_a14b", "wan21_i2v_14b", "wan22_ti2v_5b"):
        cfg = composed(f"stage={stage}", f"model={model}")
        assert (cfg.batch_size, cfg.optimizer.lr, cfg.checkpoint_every_n_steps) == (1, 1e-4, 1)
        assert composed(f"stage={stage}", f"model={model}", "optimizer.lr=5e-5").optimizer.lr == 5e-5
    tiny = composed(f"stage={stage}")
    assert tiny.batch_size == 8 and tiny.optimizer.lr in (4e-4, 8e-4, 1e-3) and tiny.checkpoint_every_n_steps == 10


def test_a_folder_of_another_run_is_not_overwritten(tmp_path):
    OmegaConf.save(composed("seed=0"), tmp_path / "config.yaml", resolve=True)
    check(composed("seed=1"), tmp_path)  # a start that failed leaves nothing that other settings could spoil
    MetricsCSV(tmp_path).log_metrics({"train/loss": 1.0}, 0)
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        check(composed("seed=1"), tmp_path)
    check(composed("seed=0", "trainer.threads=1", "logger=csv"), tmp_path)


def test_a_run_may_go_on_with_other_processes_but_not_with_other_pairs_or_the_other_kind_of_checkpoint(tmp_path):
    two = ("trainer=fsdp", "trainer.devices=2", "batch_size=4")
    OmegaConf.save(composed(*two), tmp_path / "config.yaml", resolve=True)
    MetricsCSV(tmp_path).log_metrics({"train/loss": 1.0}, 0)
    check(composed("trainer=fsdp", "trainer.devices=4", "batch_size=2", "trainer.shard=2"), tmp_path)
    check(composed("batch_size=8"), tmp_path)
    check(composed("trainer=fsdp", "trainer.context_parallel=2", "batch_size=8"), tmp_path)
    check(composed("trainer=fsdp", "trainer.devices=8", "trainer.context_parallel=2", "batch_size=2"), tmp_path)
    with pytest.raises(
        ConfigError, match="batch_size x trainer.devices x trainer.nodes / trainer.context_parallel: 8 -> 16"
    ):
        check(composed("trainer=fsdp", "trainer.devices=4", "batch_size=4"), tmp_path)
    with pytest.raises(ConfigError, match="trainer.context_parallel: 8 -> 4"):
        check(composed(*two, "trainer.context_parallel=2"), tmp_path)
    leave_checkpoint(tmp_path, 1, "step_1-01234567")
    check(composed("trainer=fsdp", "trainer.devices=1", "batch_size=8"), tmp_path)
    with pytest.raises(ConfigError, match="trainer.shard=None: .* is of sharded weights: continue with trainer=fsdp"):
        check(composed("batch_size=8"), tmp_path)


def test_a_group_that_is_newer_than_a_run_is_no_other_setting(tmp_path):
    saved = composed("seed=0")
    del saved.distill
    OmegaConf.save(saved, tmp_path / "config.yaml", resolve=True)
    MetricsCSV(tmp_path).log_metrics({"train/loss": 1.0}, 0)
    check(composed("seed=0"), tmp_path)


def test_a_pair_used_for_several_windows_is_drawn_at_every_so_many_steps():
    assert list(StepSampler(SimpleNamespace(global_step=4), 10, stride=2)) == [4, 6, 8]
    assert list(StepSampler(SimpleNamespace(global_step=0), 3, stride=1)) == [0, 1, 2]


def test_what_acts_through_other_settings_is_no_setting_of_its_own():
    free = composed().resume.may_change
    before = {"vlm.gradient_checkpointing": False, "module.policy.gradient_checkpointing": False}
    for key in ("vlm.gradient_checkpointing", "module.policy.gradient_checkpointing", "stage_steps", "learning_rate"):
        assert differences(before.get(key), 300, key, free) == []
    assert differences(200, 300, "max_steps", free) == ["max_steps: 200 -> 300"]


def test_a_run_that_another_overtook_while_it_got_ready_stops(tmp_path, monkeypatch):
    class Overtaken:
        encodes = False

        def prepare(self, policy):
            (tmp_path / "config.yaml").write_text("other: settings")

    parts = [
        SimpleNamespace(threads=None),
        SimpleNamespace(),
        SimpleNamespace(policy=SimpleNamespace(base_hash="")),
        Overtaken(),
    ]
    monkeypatch.setattr(run.lineage, "require_start", lambda *_: None)
    monkeypatch.setattr(run, "instantiate", lambda _: parts.pop(0))
    with pytest.raises(ConfigError, match="another began there with other settings"):
        run.train(composed(), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "other: settings"
