"""Each stage on the user's own data, small: tables that tools and tests share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VLM = "vlm"  # in the working tree: a Qwen3-VL that is not the world's
SMALL = (
    "model.spec={height: 32, width: 48, frames: 9, fps: 8}",
    "model.num_inference_steps=4",
    "policy.lora.rank=2",
    "max_steps=2",
    "checkpoint_every_n_steps=1",
    "sample_every_n_steps=0",
    "validate_every_n_steps=2",
    "batch_size=2",
    "logger=csv",
    "trainer.threads=1",
)


@dataclass(frozen=True)
class Stage:
    """kind: of its data. start: the stage whose adapter it starts from. ranker: the one whose adapter judges."""

    kind: str
    start: str | None = None
    ranker: str | None = None
    vlm: bool = False

    def overrides(self) -> list[str]:
        start = [f"adapter={adapter(self.start)}"] if self.start else []
        judge = ["ranker=qwen3_vl", f"ranker.path={VLM}", "ranker.frames=4", f"ranker.adapter={adapter(self.ranker)}"]
        return (
            start
            + (judge if self.ranker else [])
            + ([f"vlm.path={VLM}", "vlm.dtype=float32", "vlm.frames=4"] if self.vlm else [])
        )


STAGES = {
    "ranker": Stage("rankings", vlm=True),
    "ranker_8b": Stage("rankings", start="ranker", vlm=True),
    "sft": Stage("pairs"),
    "offline": Stage("pairs", start="sft"),
    "online": Stage("prompts", start="offline", ranker="ranker"),
    "online_ahead": Stage("prompts", start="online", ranker="ranker_8b"),
    "half_online": Stage("anchors", start="online_ahead"),
    "distill": Stage("pairs", start="half_online"),
    "distill_dpo": Stage("pairs", start="distill"),
}


def adapter(stage: str) -> str:
    return f"outputs/{stage}/run/adapter"


def command(stage: str, kind: str, run: str, model: Path | str, manifests: Mapping[str, Path | str]) -> list[str]:
    """The training of a stage on a manifest, into outputs/<run>/run of the working tree."""
    data = [f"data={kind}", f"data.path={manifests[kind]}", f"model.path={model}", *STAGES[stage].overrides()]
    return ["train.py", f"stage={stage}", f"run={run}", f"hydra.run.dir=outputs/{run}/run", *SMALL, *data]
