"""`stage=`: what is trained and what that asks of the rest. Nothing that takes seconds is imported
before it is needed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from apo.adapter import lineage
from apo.config.numbers import Text
from apo.config.outputs import OUTPUTS
from apo.config.overrides import CARRIED, quoted
from apo.errors import UserError
from apo.parts import Part, Setting
from apo.terminal import shown

if TYPE_CHECKING:
    from lightning import Callback

    from apo.data.stream import Split
    from apo.interfaces import Guidance

NO_ADAPTER = "policy.lora=null trains all weights"
STEPS = ("max_steps", "checkpoint_every_n_steps", "sample_every_n_steps", "validate_every_n_steps")


@dataclass
class Stage(Part):
    """Trains the video model.

    data: the kind of data that it trains on. after: an adapter must have gone through one of these stages; not_after:
    through none of these. sample_guidance: of the sample videos; None for `guidance`. trains: the group whose weights
    are trained.
    """

    name: Text
    data: Text
    needs_reference: bool
    trains: Text
    after: list[str] = ()
    not_after: list[str] = ()
    sample_guidance: "Guidance | None" = None

    def check(self, setting: Setting) -> None:
        cfg = setting.cfg
        setting.model.check_weights()
        self.require_adapter(cfg, setting)
        folder = setting.model.local()
        lineage.require_start(cfg, None if folder is None else setting.model.base_hash(folder))
        self.require_kind(setting.gives)
        require_whole_pairs(cfg)

    def require_kind(self, gives: str) -> None:
        """UserError unless `data` gives what the stage trains on."""
        if gives != self.data:
            raise UserError(
                f"stage={self.name} trains on {self.data}, and this data= gives {gives}: use "
                f"data=world_{self.data}, or "
                f"data={self.data} data.path=MANIFEST, or a stage that trains on {gives}"
            )

    def require_adapter(self, cfg: DictConfig, setting: Setting) -> None:
        """UserError unless the run leaves an adapter, whose layers the model has."""
        if (lora := cfg.policy.lora) is None:
            why = "leaves no frozen reference: preference stages need LoRA"
            raise UserError(
                f"{NO_ADAPTER} and {why}"
                if self.needs_reference
                else f"{NO_ADAPTER}, and a run leaves an adapter: give policy.lora.rank"
            )
        if setting.architecture is not None:
            from apo.policies.architecture import check_targets
            from apo.policies.model import check_blocks

            check_targets(lora.targets, setting.architecture)
            if (blocks := OmegaConf.select(cfg, "module.blocks")) is not None:
                check_blocks(blocks, setting.architecture.transformer["num_layers"], "module.blocks")

    def held_out(self, split: "Split", every_n_steps: int, batch_size: int) -> "list[Callback]":
        """What looks at data that is not trained on."""
        from apo.modules.callbacks import HeldOutPairs

        if not self.needs_reference or not len(split.validation):
            return []
        return [HeldOutPairs(split.validation, every_n_steps, batch_size)]

    def next_command(self, cfg: DictConfig, folder: Path) -> list[str]:
        """Script and arguments that make use of the run in `folder`: its evaluation."""
        run = OUTPUTS / str(cfg.run)
        inside = folder.absolute().is_relative_to(run.absolute())
        name = folder.absolute().relative_to(run.absolute()) if inside else shown(folder)
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        carried = [override for override in overrides if CARRIED.fullmatch(override)]
        like = [f"{key}={quoted(value)}" for key, value in instantiate(cfg.data).evaluation().items()]
        return ["evaluate", f"run={quoted(cfg.run)}", f"stage={quoted(name)}", *carried, *like]


class RankerStage(Stage):
    """Trains a ranking model (Appendix C), whose settings are those of `vlm`."""

    def check(self, setting: Setting) -> None:
        from apo.rankers.folders import check_paths

        cfg, vlm = setting.cfg, setting.cfg.vlm
        self.require_kind(setting.gives)
        if setting.sharded:
            raise UserError(
                f"trainer=fsdp shards Wan's transformers, and stage={self.name} trains a ranking model: use trainer=ddp"
            )
        check_paths("vlm", vlm.path, vlm.adapter)
        if vlm.lora is None and vlm.adapter is not None:
            raise UserError(
                "vlm.lora=null trains all weights and has no adapter to start: unset adapter, or give vlm.lora.rank"
            )
        lineage.require_start(cfg, None)
        if cfg.sample_every_n_steps:
            raise UserError(
                f"sample_every_n_steps={cfg.sample_every_n_steps}: a ranker generates no videos; leave it 0"
            )
        if cfg.ema_decay is not None:
            raise UserError(
                f"ema_decay={cfg.ema_decay}: only a stage that trains Wan has such an average; leave it null"
            )
        require_whole_pairs(cfg)

    def held_out(self, split: "Split", every_n_steps: int, batch_size: int) -> "list[Callback]":
        from apo.modules.callbacks import HeldOutRankings

        return [HeldOutRankings(split.validation, every_n_steps, batch_size)] if len(split.validation) else []

    def next_command(self, cfg: DictConfig, folder: Path) -> list[str]:
        """Lets the trained ranker judge."""
        adapter, base = quoted(shown(folder / "adapter")), quoted(cfg.vlm.path)
        trained = (
            [f"ranker.path={adapter}"] if cfg.vlm.lora is None else [f"ranker.path={base}", f"ranker.adapter={adapter}"]
        )
        return ["train", "stage=online", "ranker=qwen3_vl", *trained]


def windows_per_pair(cfg: DictConfig) -> int:
    """Optimizer steps that a batch of data is used for."""
    return OmegaConf.select(cfg, "module.windows_per_pair") or 1


def require_whole_pairs(cfg: DictConfig) -> None:
    """UserError unless what happens every N steps happens when a pair has gone through all its windows."""
    windows = windows_per_pair(cfg)
    for key in STEPS:
        if cfg[key] % windows:
            whole = cfg[key] // windows * windows or windows
            raise UserError(f"{key}={cfg[key]} is no multiple of module.windows_per_pair={windows}: give {key}={whole}")
