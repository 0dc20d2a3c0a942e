"""Every value of the config is of its kind, and every key is one that something takes: told without torch, naming key
and remedy.
"""

import pytest

from apo.config.validation import check_values
from apo.errors import UserError
from tests.configs import composed

NUMBERS = [  # override(s), key that is named, what is asked for
    ("stage=online ranker=served ranker.frames=0", "ranker.frames=0", "at least 1"),
    ("stage=online ranker=served ranker.timeout_s=nan", "ranker.timeout_s=nan", "a number above 0"),
    ("stage=online ranker=served ranker.retries=-1", "ranker.retries=-1", "at least 0"),
    ("stage=online ranker=served ranker.max_concurrency=0", "ranker.max_concurrency=0", "at least 1"),
    ("stage=online ranker=qwen3_vl ranker.dtype=int8", "ranker.dtype=int8", "one of float32"),
    (
        "stage=online ranker=by_domain ranker.rankers.digit.batch_size=0",
        "ranker.rankers.digit.batch_size=0",
        "at least 1",
    ),
    ("stage=online ranker=by_domain ranker.rankers=3", "ranker.rankers=3", "a group of settings"),
    ("stage=ranker vlm.lora.rank=0", "vlm.lora.rank=0", "at least 1"),
    ("stage=ranker vlm.lora.targets=[]", "vlm.lora.targets=[]", "at least one"),
    ("stage=ranker vlm.fps=nan", "vlm.fps=nan", "a number above 0"),
    ("stage=ranker vlm.autocast=half", "vlm.autocast=half", "or null"),
    ("model.spec.fit=stretch", "model.spec.fit=stretch", "crop or pad"),
    ("data=pairs data.path=a data.columns=3", "data.columns=3", "a group"),
    ("max_steps=0", "max_steps=0", "a whole number of at least 1"),
    ("max_steps=1.5", "max_steps=1.5", "a whole number"),
    ("max_steps=abc", "max_steps=abc", "a whole number"),
    ("max_steps=null", "max_steps=null", "a whole number"),
    ("max_steps=true", "max_steps=true", "a whole number"),
    ("max_steps=[1]", "max_steps=[1]", "a whole number"),
    ("max_steps={a: 1}", "max_steps={'a': 1}", "a whole number"),
    ("max_steps=inf", "max_steps=inf", "a whole number"),
    ("max_steps=nan", "max_steps=nan", "a whole number"),
    ("max_steps=1e12", "max_steps=1000000000000.0", "a whole number"),
    ("max_steps=1000000000000", "max_steps=1000000000000", "a whole number of at most 1,000,000,000"),
    ("seed=-1", "seed=-1", "at least 0"),
    ("seed=1208925819614629174706176", "seed=12", "at most 4,294,967,295"),
    ("seed=0.5", "seed=0.5", "a whole number"),
    ("batch_size=1000000000", "batch_size=", "at most 16,384"),
    ("batch_size=0", "batch_size=0", ""),
    ("warmup_steps=-1", "warmup_steps=-1", "at least 0"),
    ("decay_steps=-3", "decay_steps=-3", "or null for a rate that stays"),
    ("decay_steps=0", "decay_steps=0", "at least 1"),
    ("max_grad_norm=0", "max_grad_norm=0", "a number above 0"),
    ("max_grad_norm=inf", "max_grad_norm=inf", "a number above 0"),
    ("max_grad_norm=null", "max_grad_norm=null", "a number"),
    ("ema_decay=abc", "ema_decay=abc", "or null for the adapter itself"),
    ("ema_decay=nan", "ema_decay=nan", "a share"),
    ("sample_every_n_steps=-1", "sample_every_n_steps=-1", ""),
    ("checkpoint_every_n_steps=0", "checkpoint_every_n_steps=0", ""),
    ("validate_every_n_steps=no", "validate_every_n_steps=no", "a whole number"),
    ("run=[1]", "run=[1]", "a text"),
    ("run=''", "run=", "a text"),
    ("adapter=3", "adapter=3", "a text, or null"),
    ("adapter=[a]", "adapter=['a']", "a text"),
    ("optimizer.lr=nan", "optimizer.lr=nan", "a number of at least 0"),
    ("optimizer.lr=inf", "optimizer.lr=inf", ""),
    ("optimizer.lr=-1e-4", "optimizer.lr=-0.0001", ""),
    ("optimizer.lr=[1e-4]", "optimizer.lr=[0.0001]", "a number of at least 0"),
    ("optimizer.lr=null", "optimizer.lr=null", ""),
    ("optimizer.weight_decay=nan", "optimizer.weight_decay=nan", ""),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1", ""),
    ("optimizer.betas=[2, 0.9]", "optimizer.betas[0]=2", "a share"),
    ("optimizer.betas=[0.9, 1.0]", "optimizer.betas[1]=1.0", "below 1"),
    ("optimizer.betas=0.9", "optimizer.betas=0.9", "a list of 2"),
    ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]", "a list of 2"),
    ("+optimizer.eps=nan", "optimizer.eps=nan", ""),
    ("+optimizer.amsgrad=2", "optimizer.amsgrad=2", "true or false"),
    ("learning_rate=nan model=wan22_i2v_a14b", "learning_rate=nan", ""),
    ("stage_steps=0 model=wan22_i2v_a14b", "stage_steps=0", "a whole number"),
    ("policy.lora.rank=1e8", "policy.lora.rank=100000000.0", "a whole number"),
    ("policy.lora.rank=100000000", "policy.lora.rank=100000000", "at most 8,192"),
    ("policy.lora.rank=0", "policy.lora.rank=0", ""),
    ("policy.lora.alpha=-1", "policy.lora.alpha=-1", "above 0"),
    ("policy.lora.alpha=nan", "policy.lora.alpha=nan", ""),
    ("policy.lora.targets=[]", "policy.lora.targets=[]", "at least one"),
    ("policy.lora.targets=5", "policy.lora.targets=5", "a list"),
    ("policy.lora.targets=to_q", "policy.lora.targets=to_q", "a list"),
    ("policy.lora.targets=[3]", "policy.lora.targets[0]=3", "a text"),
    ("policy.lora=3", "policy.lora=3", "a group of settings"),
    ("policy.offload=7", "policy.offload=7", "true or false"),
    ("~policy.lora.alpha", "policy.lora.alpha", "is not set"),
    ("policy.context_parallel=-1", "policy.context_parallel=-1", ""),
    ("sampler.high_rows=1000000", "sampler.high_rows=1000000", "at most 1,000"),
    ("sampler.high_rows=-1", "sampler.high_rows=-1", ""),
    ("sampler.low_rows=null", "sampler.low_rows=null", ""),
    ("sampler.split=nan", "sampler.split=nan", "a share, from 0 to 1"),
    ("sampler.split=3", "sampler.split=3", "a share"),
    ("sampler.shifts=3", "sampler.shifts=3", "a list"),
    ("sampler.shifts=[3, abc]", "sampler.shifts[1]=abc", "above 0"),
    ("sampler.shifts=[0]", "sampler.shifts[0]=0", "above 0"),
    ("sampler.shifts=[inf]", "sampler.shifts[0]=inf", "above 0"),
    ("sampler.offset_variance=nan", "sampler.offset_variance=nan", ""),
    ("sampler.stride=1.5", "sampler.stride=1.5", ""),
    ("sampler.snap=1", "sampler.snap=1", "true or false"),
    ("sampler.seed=x", "sampler.seed=x", ""),
    ("sampler.num_inference_steps=100000", "sampler.num_inference_steps=100000", "at most"),
    ("sampler=uniform sampler.rows=10000000", "sampler.rows=10000000", "at most 1,000"),
    ("sampler=uniform sampler.boundary=2", "sampler.boundary=2", "a share"),
    ("sampler=logit_normal sampler.std=0", "sampler.std=0", ""),
    ("sampler=logit_normal sampler.mean=nan", "sampler.mean=nan", "a number"),
    ("~sampler.stride", "sampler.stride", "is not set"),
    ("sampler.rows='${run}' sampler=uniform", "sampler.rows=main", "a whole number"),
    ("~sampler._target_", "sampler._target_", "not set"),
    ("objective.beta=nan", "objective.beta=nan", ""),
    ("objective.beta=0", "objective.beta=0", "above 0"),
    ("objective=dpop objective.lambda_=-1", "objective.lambda_=-1", ""),
    ("objective.beta=1e40", "objective.beta=1e+40", ""),
    ("guidance=cfg guidance.omega_high=nan", "guidance.omega_high=nan", ""),
    ("guidance=cfg_stg guidance.blocks=1", "guidance.blocks=1", "a list"),
    ("guidance=cfg_stg guidance.blocks=[-1]", "guidance.blocks[0]=-1", ""),
    ("guidance=cfg_stg guidance.lambda_=inf", "guidance.lambda_=inf", "a number"),
    ("guidance=cfg_stg guidance.batched=maybe", "guidance.batched=maybe", "true or false"),
    ("model.spec={height: abc}", "model.spec", ""),
    ("model.spec.height=0", "model.spec.height=0", "at least 1"),
    ("model.spec.height=1000000000", "model.spec.height=1000000000", "at most"),
    ("model.spec.fps=nan", "model.spec.fps=nan", ""),
    ("model.spec.fps=0", "model.spec.fps=0", "above 0"),
    ("model.spec=3", "model.spec=3", "a group of settings"),
    ("model.shift=inf", "model.shift=inf", "above 0"),
    ("model.num_inference_steps=0", "model.num_inference_steps=0", ""),
    ("model.boundary=-0.1", "model.boundary=-0.1", "a share"),
    ("model.omega.high=abc", "model.omega.high=abc", "a number"),
    ("model.omega=1", "model.omega=1", "a group of settings"),
    ("model.stg.blocks=[a]", "model.stg.blocks[0]=a", ""),
    ("model.stg=3", "model.stg=3", "a group of settings, or null"),
    ("model.max_sequence_length=0", "model.max_sequence_length=0", ""),
    ("model.negative_prompt=3", "model.negative_prompt=3", "a text"),
    ("model.lora_targets=[]", "model.lora_targets=[]", "at least one"),
    ("model.dtype=float64", "model.dtype=float64", "one of float32"),
    ("model.path=''", "model.path=", "a text"),
    ("model.path=5", "model.path=5", "a text"),
    ("model.decode_tile=-8", "model.decode_tile=-8", ""),
    ("data.count=0", "data.count=0", ""),
    ("data.batch_size=0", "data.batch_size=0", ""),
    ("data.seed=nan", "data.seed=nan", ""),
    ("data.split=tests", "data.split=tests", "one of train, validation, test"),
    ("data.generator=both", "data.generator=both", "base or start"),
    ("data.cache_dir=null", "data.cache_dir=null", "a text"),
    ("data=pairs data.path=[a]", "data.path=['a']", "a text"),
    ("data=pairs data.path=a data.validation_fraction=1", "data.validation_fraction=1", "below 1"),
    ("data=pairs data.path=a data.validation_fraction=nan", "data.validation_fraction=nan", "a share"),
    ("data=pairs", "data.path", "not set"),
    ("trainer.devices=0", "trainer.devices=0", "at least 1"),
    ("trainer.devices=2.5", "trainer.devices=2.5", "a whole number"),
    ("trainer.devices=all", "trainer.devices=all", "a whole number"),
    ("trainer.devices=[0]", "trainer.devices=[0]", "a whole number"),
    ("trainer.nodes=-1", "trainer.nodes=-1", ""),
    ("trainer.threads=0", "trainer.threads=0", "or null for torch's own choice"),
    ("trainer.accelerator=tpu", "trainer.accelerator=tpu", "one of cpu, gpu"),
    ("trainer.backend=mpi", "trainer.backend=mpi", "gloo or nccl, or null"),
    ("trainer.shard=[1]", "trainer.shard=[1]", ""),
    ("trainer.offload=maybe", "trainer.offload=maybe", "true or false"),
    ("trainer.context_parallel=x", "trainer.context_parallel=x", ""),
    ("stage.name=[1]", "stage.name=[1]", "a text"),
    ("+stage.after=online", "stage.after=online", "a list"),
    ("stage.needs_reference=3", "stage.needs_reference=3", "true or false"),
    ("module.split=nan", "module.split=nan", "a share"),
    ("module.batch_size=nan", "module.batch_size=nan", ""),
    ("module.windows_per_pair=0 stage=online", "module.windows_per_pair=0", ""),
    (
        "module.reference_update_every_n_steps=0",
        "module.reference_update_every_n_steps=0",
        "or null to keep the reference",
    ),
    ("stage=distill module.blocks=3", "module.blocks=3", "a list"),
    ("stage=distill module.loss.rejected=2", "module.loss.rejected=2", "true or false"),
    ("stage=distill distill.omega=[1]", "distill.omega=[1]", "a list of 2"),
    ("stage=distill distill.omega=[a, b]", "distill.omega[0]=a", ""),
    ("stage=distill distill.lambda_=[0, inf]", "distill.lambda_[1]=inf", "a number"),
    (
        "stage=online module.pairs.rollout.cache_threshold=nan",
        "module.pairs.rollout.cache_threshold=nan",
        "above 0, or null",
    ),
    (
        "stage=online module.pairs.rollout.batch_size=-1",
        "module.pairs.rollout.batch_size=-1",
        "or null for all at once",
    ),
    ("stage=online module.pairs.rollout=4", "module.pairs.rollout=4", "a group of settings"),
    ("stage=online module.pairs.candidates=1", "module.pairs.candidates=1", "at least 2"),
    ("stage=online module.pairs.candidates=100000", "module.pairs.candidates=100000", "at most 1,000"),
    ("stage=online module.pairs.min_confidence=nan", "module.pairs.min_confidence=nan", "a share"),
    ("stage=online module.pairs.max_attempts=0", "module.pairs.max_attempts=0", ""),
    ("stage=online ranker.similar=nan", "ranker.similar=nan", ""),
    ("module.sampler=3", "module.sampler=3", "a group of settings"),
    ("module.pairs=3", "module.pairs=3", "a group of settings"),
    (
        "~objective",
        "module.loss.objective=${objective}: objective is not set",
        "choose objective=OPTION among dpo, dpop, ipo",
    ),
    ("~sampler", "sampler is not set", "choose sampler=OPTION among apo"),
    ("~logger", "logger is not set", "csv"),
    ("run='${nowhere}'", "run=${nowhere}: nowhere is not set", ""),
    ("sampler._target_=apo.timesteps.apo.Nothing", "sampler._target_=", ""),
]

EVALUATING = [
    ("batch_size=0", "batch_size=0", ""),
    ("videos=-1", "videos=-1", ""),
    ("seed=nan", "seed=nan", ""),
    ("conditions.count=0", "conditions.count=0", ""),
    ("conditions.count=null", "conditions.count=null", "at least 1"),
    ("conditions.split=x", "conditions.split=x", "one of train"),
    ("stage=[a]", "stage=['a']", "a text"),
    ("against={a: 1}", "against={'a': 1}", ""),
    ("guidance=cfg guidance.omega_low=nan", "guidance.omega_low=nan", ""),
]

PLANNING = [
    ("plan.utilisation=0", "plan.utilisation=0", "a share above 0, up to 1"),
    ("plan.gpu.flops=nan", "plan.gpu.flops=nan", ""),
    ("plan.gpu=h200", "plan.gpu=h200", ""),
    ("plan.ranker.orders=3", "plan.ranker.orders=3", "at most 2"),
    ("plan.reserve_gib=-1", "plan.reserve_gib=-1", ""),
    ("max_steps=-1", "max_steps=-1", ""),
]

UNKNOWN = [  # override(s), what is said
    ("+lr=1e-9", "lr: there is no such setting; did you mean optimizer.lr"),
    ("+steps=3", "steps: there is no such setting; did you mean max_steps"),
    ("+module.foo=1", "module.foo: there is no such setting"),
    ("+module.batchsize=1", "did you mean module.batch_size"),
    ("+optimizer.momentum=0.9", "optimizer.momentum: there is no such setting"),
    ("+sampler.rows=3", "sampler.rows: there is no such setting"),
    ("+sampler.high_row=3", "did you mean sampler.high_rows"),
    ("+model.spec.heigth=3", "did you mean model.spec.height"),
    ("+policy.lora.dropout=0.1", "policy.lora.dropout: there is no such setting"),
    ("+trainer.device=2", "did you mean trainer.devices"),
    ("+trainer.strategy=ddp", "trainer.strategy: there is no such setting; there are trainer.accelerator"),
    ("+trainer.strategy=ddp", "or choose trainer=OPTION among cpu, ddp, fsdp, gpu"),
    ("+stage.adapter=x", "stage.adapter: there is no such setting"),
    ("+foo.bar=1", "foo: there is no such setting"),
    ("+data.path=x", "data.path: there is no such setting"),
    ("+logger.mlflow=1", "logger.mlflow: there is no such setting"),
    ("+rank=4", "did you mean policy.lora.rank"),
    ("+model.omega.mid=1", "model.omega.mid: there is no such setting"),
    ("stage=online +module.pairs.rollout.steps=1", "module.pairs.rollout.num_inference_steps"),
]

TAKEN = [
    "+optimizer.amsgrad=true",
    "optimizer._target_=torch.optim.SGD ~optimizer.betas +optimizer.momentum=0.9",
    "+width=4 policy.lora.rank='${width}'",
    "+stage.not_after=[sft]",
    "+logger.wandb.tags=[a]",
    "+logger.wandb.entity=me",
    "run=2024",
    "adapter=outputs/x",
    "policy.lora.alpha=2.5",
    "optimizer.lr=1",
    "sampler.shifts=['${model.shift}']",
    "model.boundary=null",
    "decay_steps=null",
    "objective.beta=500.0",
    "trainer=fsdp trainer.shard=2",
    "stage=ranker ~distill",
    "guidance=cfg_stg guidance.blocks=[0, 1]",
    "model=wan22_i2v_a14b",
    "stage=online ranker=by_domain",
    "stage=online ranker=served",
    "max_grad_norm=1e9",
    "optimizer.lr=0",
    "stage=half_online",
    "stage=sft",
    "data=rankings data.path=a stage=ranker",
]


def said(name: str, schema: str, overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        check_values(composed(*split(overrides), name=name), schema)
    message = str(refused.value)
    assert "\n" not in message and len(message) < 300
    return message


def split(overrides: str) -> list[str]:
    """At spaces that a new override follows."""
    parts = []
    for word in overrides.split():
        if "=" in word or word.startswith("~"):
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    return parts


@pytest.mark.parametrize("overrides, key, asked", NUMBERS, ids=lambda value: value[:60])
def test_a_value_that_can_not_be_is_refused_by_its_key(overrides, key, asked):
    message = said("train", "Training", overrides)
    assert message.startswith(key) and asked in message, message


@pytest.mark.parametrize("overrides, key, asked", EVALUATING)
def test_evaluate_refuses_as_train_does(overrides, key, asked):
    message = said("evaluate", "Evaluating", overrides)
    assert message.startswith(key) and asked in message, message


@pytest.mark.parametrize("overrides, key, asked", PLANNING)
def test_the_plan_refuses_as_train_does(overrides, key, asked):
    message = said("train", "Planning", f"+plan=h200 {overrides}")
    assert message.startswith(key) and asked in message, message


@pytest.mark.parametrize("overrides, expected", UNKNOWN)
def test_a_key_that_nothing_takes_is_refused_with_the_closest_one(overrides, expected):
    assert expected in said("train", "Training", overrides)


@pytest.mark.parametrize("overrides", TAKEN)
def test_what_something_takes_is_let_pass(overrides):
    check_values(composed(*split(overrides)), "Training")


def test_a_class_of_ones_own_says_what_it_takes(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom apo.config.numbers import Rows\nfrom apo.timesteps.uniform import "
        "UniformSampler\n"
        "@dataclass\nclass Middle(UniformSampler):\n    middle: float\n    table: dict\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = [
        "sampler=uniform",
        "sampler._target_=mine.Middle",
        "+sampler.middle=500",
        "+sampler.table={any: {thing: 1}}",
    ]
    check_values(composed(*mine), "Training")
    for more in ("sampler.rows=0", "+sampler.center=3", "sampler.middle=x"):
        assert more.strip("+").partition("=")[0] in said(
            "train", "Training", " ".join([*mine[:3], "+sampler.table={}", more])
        )


def test_a_knob_added_later_is_of_the_kind_that_its_class_says_and_stands_in_no_list(tmp_path, monkeypatch):
    """A setting of a group, and a top-level key that goes to a part: one Python and one YAML file each."""
    (tmp_path / "added.py").write_text(
        "from dataclasses import dataclass\nfrom apo.config.numbers import Share\nfrom apo.modules.cluster "
        "import Single\n"
        "@dataclass\nclass Spare(Single):\n    spare: Share\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    trainer = "trainer._target_=added.Spare"
    check_values(composed(trainer, "+trainer.spare=0.5"), "Training")
    assert said("train", "Training", f"{trainer} +trainer.spare=2").startswith(
        "trainer.spare=2: give a share, from 0 to 1"
    )
    assert said("train", "Training", trainer).startswith("trainer.spare is not set")
    top = "+spare=2 +trainer.spare='${spare}'"
    assert said("train", "Training", f"{trainer} {top}").startswith("spare=2: give a share, from 0 to 1")
