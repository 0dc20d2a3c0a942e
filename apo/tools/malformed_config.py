"""Malformed settings: numbers, words, unknown keys, paths that lead out of outputs/."""

from collections.abc import Iterator

from apo.tools.cases import OFFLINE, TRAIN, Case

ONLINE = (
    "train.py",
    "run=case",
    *TRAIN[4:],
    "stage=online",
)  # with the world's model, since it asks for the world's prompts
NUMBERS = ("nan", "inf", "-1", "abc", "true", "1e400", "null", "[1]")
POSITIVE = (  # key -> the values that are refused
    ("max_steps", ("nan", "0", "-1", "2.5", "abc", "1e400", "null")),
    ("batch_size", ("nan", "0", "-1", "abc", "null")),
    ("optimizer.lr", ("nan", "inf", "-1", "abc")),
    ("optimizer.weight_decay", ("nan", "-inf", "abc", "-1")),
    ("optimizer.betas", ("[nan,0.9]", "[2,0.9]", "3", "abc")),
    ("max_grad_norm", ("nan", "-1", "0", "abc")),
    ("warmup_steps", ("nan", "-1", "abc")),
    ("decay_steps", ("nan", "-1", "abc", "0")),
    ("ema_decay", ("nan", "1", "-1", "abc")),
    ("seed", ("nan", "2.5", "abc", "1208925819614629174706176", "-1")),
    ("module.split", ("nan", "-1", "2", "abc")),
    ("policy.lora.rank", ("nan", "0", "-1", "1.5", "100000000", "abc")),
    ("policy.lora.alpha", ("nan", "inf", "abc")),
    ("policy.lora.targets", ("[]", "[nowhere]", "3")),
    ("sampler.high_rows", ("nan", "-1", "1000000", "abc", "1.5")),
    ("sampler.shifts", ("[]", "[0]", "[nan]", "[-1]", "abc")),
    ("sampler.num_inference_steps", ("0", "nan", "-3", "abc")),
    ("objective.beta", ("nan", "inf", "0", "-1", "abc")),
    ("checkpoint_every_n_steps", ("0", "nan", "-1", "abc")),
    ("sample_every_n_steps", ("nan", "-1", "abc")),
    ("validate_every_n_steps", ("0", "nan", "-1", "abc")),
    ("model.shift", ("nan", "0", "-1", "abc")),
    ("model.boundary", ("nan", "2", "-1", "abc")),
    ("model.num_inference_steps", ("0", "nan", "-1", "abc")),
    ("model.spec.height", ("0", "-32", "33", "nan", "abc")),
    ("model.spec.frames", ("0", "8", "-9", "nan", "abc")),
    ("model.spec.fps", ("0", "nan", "-8", "inf", "abc")),
    ("model.dtype", ("float7", "3", "null")),
    ("model.max_sequence_length", ("0", "-1", "nan", "abc")),
    ("trainer.devices", ("0", "-1", "abc", "1.5")),
    ("trainer.threads", ("-1", "abc", "nan")),
    ("trainer.accelerator", ("tpu", "3")),
    ("trainer.strategy", ("deepspeed", "3")),
    ("data.validation_fraction", ("nan", "1", "-1", "abc")),
    ("data.seed", ("nan", "abc")),
)
GENERATING = (
    ("ranker.error_rate", ("nan", "2", "-1", "abc")),
    ("module.pairs.candidates", ("0", "1", "nan", "abc")),
    ("module.pairs.min_confidence", ("nan", "2", "abc")),
    ("module.pairs.max_attempts", ("0", "nan", "abc")),
    ("module.pairs.rollout.cache_threshold", ("nan", "-1", "abc")),
    ("module.pairs.rollout.num_inference_steps", ("0", "-1", "nan", "abc")),
    ("module.pairs.rollout.batch_size", ("0", "-1", "abc")),
    ("module.windows_per_pair", ("0", "-1", "nan", "abc")),
)
UNKNOWN = {  # an unknown key -> the known one that the line must offer
    "+lr=1e-9": r"optimizer\.lr",
    "lr=1e-9": r"optimizer\.lr",
    "+max_step=3": "max_steps",
    "max_step=3": "max_steps",
    "+optimizer.learning_rate=1": r"optimizer\.lr|learning_rate",
    "+batchsize=3": "batch_size",
    "+policy.lora.rnak=3": "rank",
    "+sampler.shift=3": "shifts",
    "+trainer.device=2": "devices",
    "+model.spec.heigth=3": "height",
    "+stage.nmae=x": "name",
    "+data.cachedir=x": "cache_dir",
    "+rank=8": r"policy\.lora\.rank",
    "+beta=5": r"objective\.beta",
}
GROUPS = (
    "stage",
    "sampler",
    "objective",
    "guidance",
    "data",
    "ranker",
    "model",
    "trainer",
    "logger",
    "ablation",
    "curriculum",
    "cheaper",
)
SYNTAX = (
    "max_steps",
    "=3",
    "max_steps=[1",
    "max_steps={a",
    "a b",
    "--nope",
    "-x",
    "model.spec=3",
    "optimizer=3",
    "policy=null",
)
AWAY = ("../away", "/tmp/apo_away", "a/../../away", "..", "guard/../../x")
EVALUATE = (
    "evaluate.py",
    "run=made",
    "stage=run",
    "model.path=model",
    "model.num_inference_steps=4",
    *OFFLINE[3:4],
    "videos=0",
    "conditions=prompts",
    "conditions.path=data/prompts.jsonl",
    "evaluator=none",
    "trainer.threads=1",
)
EVALUATION = {
    "run=nowhere": "nowhere",
    "stage=nowhere": "nowhere",
    "against=nowhere": "nowhere",
    "videos=-1": "videos",
    "videos=nan": "videos",
    "batch_size=0": "batch_size",
    "batch_size=nan": "batch_size",
    "conditions.count=0": "count",
    "conditions.count=-3": "count",
    "conditions.path=nowhere.jsonl": r"nowhere\.jsonl",
    "seed=abc": "seed",
    "evaluator=nope": "nope",
    "conditions=nope": "nope",
    "evaluator=world": "world",
    "model.path=nowhere": "nowhere",
    "stage='no*'": "no",
    "+stages=x": "arm|stage",
    "seed=1e400": "seed",
}


def cases() -> Iterator[Case]:
    for base, table in ((OFFLINE, POSITIVE), (ONLINE, GENERATING)):
        for key, values in table:
            yield from (
                Case(f"config: {key}={value}", (*base, f"{key}={value}"), (key.split(".")[-1],)) for value in values
            )
    for words, offered in UNKNOWN.items():
        yield Case(f"config: unknown {words}", (*OFFLINE, words), (offered,))
    for group in GROUPS:
        yield Case(f"config: {group}=nope", (*OFFLINE, f"{group}=nope"), (group, "nope"))
    for words in SYNTAX:
        yield Case(f"config: {words}", (*OFFLINE, words), (words.split("=")[0].strip("-") or words,))
    yield Case(
        "config: world's oracle, other prompts", (*ONLINE, "data=prompts", "data.path=data/other.jsonl"), ("oracle",)
    )
    for words, named in EVALUATION.items():
        yield Case(f"evaluate: {words}", (*EVALUATE, words), (named,))
    for path in AWAY:
        yield Case(f"evaluate: results={path}", (*EVALUATE, f"results={path}"), ("results",))
        yield Case(f"evaluate: run={path}", (*EVALUATE, f"run={path}"), ("run",))
        yield Case(f"train: run={path}", (*OFFLINE, f"run={path}"), ("run",))
