"""A finished run's adapter folder, read to be exported: whole, and over the base that it was trained on."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from apo.adapter import lineage
from apo.errors import UserError
from apo.io.files import read_tensors
from apo.policies.adapter import AGAIN, FILES, adapter_settings
from apo.policies.model import WanModel, fingerprint

LORA = re.compile(r"(.+)\.(lora_[AB]\.weight)")


class ExportError(UserError):
    """What keeps an adapter from being exported, found before anything is written."""


@dataclass(frozen=True)
class Adapter:
    """A finished run's adapter folder; ExportError if it isn't one, or its files are not those of its lineage."""

    folder: Path

    def __post_init__(self):
        if not (self.folder / lineage.FILE).is_file():
            raise ExportError(f"{self.folder}: no lineage.json there; give the adapter/ folder of a finished run")
        if not self.experts:
            raise ExportError(
                f"{self.folder}: none of {', '.join(FILES.values())} there; a ranker's adapter has no such layout"
            )
        try:
            lineage.require_whole(self.folder)
        except ValueError as error:
            raise ExportError(str(error)) from None

    @cached_property
    def lineage(self) -> dict:
        return lineage.read(self.folder)

    @cached_property
    def experts(self) -> list[str]:
        """The transformers that it adapts: transformer, transformer_2."""
        return [key for key, name in FILES.items() if (self.folder / name).is_file()]

    def file_name(self, expert: str) -> str:
        """<run>_<stage>, and the expert if there are two."""
        stem = f"{self.lineage['config'].get('run', 'adapter')}_{self.lineage['stage']}"
        stem = re.sub(r"[/\\\x00-\x1f]", "_", stem).lstrip(".")
        return f"{stem}.safetensors" if len(self.experts) == 1 else f"{stem}_{FILES[expert]}"

    def state(self, expert: str) -> dict[str, Tensor]:
        """lora_A and lora_B of an expert's linear layers, by diffusers' names."""
        path = self.folder / FILES[expert]
        found = {key.removeprefix("transformer."): value for key, value in read_tensors(path, AGAIN).items()}
        if strange := [key for key in found if LORA.fullmatch(key) is None]:
            raise ExportError(f"{path}: {strange[0]} is no weight of a LoRA: {AGAIN}")
        return found

    def deltas(self, expert: str) -> dict[str, Callable[[], Tensor]]:
        """What makes each weight's gain, alpha / rank · B·A in float32: all of an expert's at once are larger than the
        expert.
        """
        state, settings = self.state(expert), adapter_settings(self.folder)
        modules = {key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")}
        scale = settings["alpha"] / settings["rank"]

        def delta(module: str) -> Tensor:
            return scale * (state[f"{module}.lora_B.weight"].float() @ state[f"{module}.lora_A.weight"].float())

        return {f"{module}.weight": partial(delta, module) for module in sorted(modules)}

    def base(self, path: str | None) -> Path:
        """The pipeline folder that it was trained on (or `path`); ExportError if its weights are others."""
        settings, known = self.lineage["config"].get("model"), {each.name for each in fields(WanModel)}
        try:  # not instantiated: whoever wrote lineage.json would choose what is called
            model = WanModel(
                **{key: value for key, value in settings.items() if key in known} | ({"path": path} if path else {})
            )
            model.check()
        except (TypeError, AttributeError) as error:
            raise ExportError(f"{self.folder}: {lineage.FILE} is damaged (its model: {error}); {AGAIN}") from None
        except ValueError as error:
            raise ExportError(f"{error}; --base names the pipeline that the adapter was trained on") from None
        folder = model.folder()
        if (found := fingerprint(folder, ("transformer", "transformer_2"))) != self.lineage["base"]["hash"]:
            raise ExportError(
                f"{folder} has the weights {found} and the adapter was trained on {self.lineage['base']['hash']} "
                f"({self.lineage['base']['path']}): give that pipeline as --base"
            )
        return folder
