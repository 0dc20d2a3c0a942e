"""A Qwen3-VL that answers a ranking prompt with one token, and the LoRA adapters that share its weights.

The one implementation of prompt and video processing for training (`stage=ranker`) and for ranking.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from apo.config.numbers import Seed, Size, Text
from apo.data.domains import prompt_text
from apo.distributed import rank
from apo.errors import UserError
from apo.io.files import read_tensors, write_tensors
from apo.policies.adapter import AGAIN
from apo.policies.lora import add_lora, tuner_layers, using
from apo.policies.model import Dtype, LoRA, Rate
from apo.rankers.answer import LABELS, frame_places
from apo.rankers.folders import (
    PREFIX,
    SETTINGS,
    WEIGHTS,
    base_hash,
    local_folder,
    lora_settings,
    model_folder,
    require_finite,
)

MIN_LABEL_PROBABILITY = 1e-3  # probability of all four labels together
TRAINED = "trained"  # the adapter that stage=ranker trains


class RankingVLM(nn.Module):
    """Logits of the answer to "which of two videos is better" (Appendix C.2).

    path: a folder that Qwen3VLForConditionalGeneration.from_pretrained loads, or a hub id. frames: what both videos
    are standardised to. fps: of the videos that are ranked; the model reads it as time stamps. prompts: folder of
    ranking prompts, see `apo.data.domains.prompt_text`. UserError for a damaged folder, or if a label is not one token.
    """

    def __init__(self, path: str, dtype: str, frames: int, fps: float, prompts: str | None = None):
        super().__init__()
        folder = model_folder(path)
        self.path, self.frames, self.fps, self.prompts = path, frames, fps, prompts
        self.model, self.processor = load(folder, getattr(torch, dtype))
        self.processor.tokenizer.padding_side = "left"  # the answer follows the last token of every row
        self.base_hash = base_hash(folder)
        self.answers = self.label_tokens()
        self.adapters: set[str] = set()
        self.requires_grad_(False)

    def label_tokens(self) -> list[int]:
        tokens = [self.processor.tokenizer.encode(label, add_special_tokens=False) for label in LABELS]
        if any(len(token) != 1 for token in tokens):
            raise UserError(
                f"{self.path}: the labels {LABELS} are tokens {tokens}: use a model for which each is one token"
            )
        return [token for (token,) in tokens]

    def forward(self, first: Tensor, second: Tensor, domains: Sequence[str]) -> Tensor:
        """(B, vocabulary) float32 logits of the answer token; first, second: (B, F, 3, H, W) uint8."""
        inputs = self.inputs(first, second, domains).to(self.model.device)
        return self.model(**inputs, logits_to_keep=1).logits[:, -1].float()

    def probabilities(self, first: Tensor, second: Tensor, domains: Sequence[str]) -> Tensor:
        """(B, 4) of the labels 1..4, among themselves. ValueError for an answer that is almost surely none of them."""
        every = self(first, second, domains).softmax(-1)
        given = every[:, self.answers]
        if doubtful := (given.sum(1) < MIN_LABEL_PROBABILITY).nonzero().flatten().tolist():
            answer = self.processor.tokenizer.decode(every[doubtful[0]].argmax())
            raise UserError(
                f"{self.path} answered {answer!r} where one of 1, 2, 3, 4 was asked for: is it a model for this prompt?"
            )
        return given / given.sum(1, keepdim=True)

    def inputs(self, first: Tensor, second: Tensor, domains: Sequence[str]):
        """The processor's batch: left-padded tokens, patches of both videos of each pair in turn."""
        videos = [video for pair in zip(first, second) for video in pair]
        places = [frame_places(len(video), self.frames) for video in videos]
        metadata = [
            dict(total_num_frames=len(v), fps=self.fps, frames_indices=p.tolist(), duration=len(v) / self.fps)
            for v, p in zip(videos, places)
        ]
        return self.processor(
            text=[self.question(domain) for domain in domains],
            videos=[v[p.to(v.device)] for v, p in zip(videos, places)],
            video_metadata=metadata,
            do_sample_frames=False,
            cap_pixels_per_frame=True,
            padding=True,
            return_tensors="pt",
        )

    def question(self, domain: str) -> str:
        """The conversation up to the answer token; the videos are still one placeholder each."""
        content = [{"type": "video"}, {"type": "video"}, {"type": "text", "text": prompt_text(domain, self.prompts)}]
        messages = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, add_vision_id=True
        )

    def load_adapter(self, folder: str) -> str:
        """Reads an adapter once, beside those already there; returns its name, for `using`."""
        found = local_folder(folder, SETTINGS) or Path(folder)
        name = str(found.resolve()).replace(".", "_")  # no dots in module names
        if name not in self.adapters:
            settings = lora_settings("adapter", found)
            require_finite("adapter", found / WEIGHTS)
            try:
                self.add_adapter(LoraConfig(**settings, task_type="CAUSAL_LM"), name, seed=0)
            except ValueError as error:  # peft found none of the modules
                raise UserError(
                    f"adapter={folder} does not fit {self.path} ({error}): use the base that it was trained over"
                ) from None
            self.read_adapter(folder, name)
            self.requires_grad_(False)
        return name

    def add_adapter(self, config: LoraConfig, name: str, seed: int) -> None:
        add_lora(self.model, config, name, seed)
        self.adapters.add(name)

    def read_adapter(self, folder: str, name: str) -> None:
        """Weights that `save_adapter` wrote, into the adapter `name`; ValueError if they are not of its shape."""
        path = (local_folder(folder, SETTINGS) or Path(folder)) / WEIGHTS
        state = {key.removeprefix(PREFIX): value for key, value in read_tensors(path, AGAIN).items()}
        ours = get_peft_model_state_dict(self.model, adapter_name=name)
        if wrong := [
            k for k in ours.keys() | state.keys() if k not in ours or k not in state or ours[k].shape != state[k].shape
        ]:
            raise UserError(
                f"{path} does not fit {self.path} ({len(wrong)} of {len(ours)} tensors differ, "
                f"{sorted(wrong)[0]} first): "
                "use the base, rank and targets it was trained with"
            )
        set_peft_model_state_dict(self.model, state, adapter_name=name)

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Inside, the model answers with adapter `name`, or with none."""
        layers = tuner_layers([self.model])
        if not layers:
            yield
            return
        with using(layers, name):
            yield


class TrainableVLM(RankingVLM):
    """What stage=ranker trains: a new adapter, or all weights.

    lora: rank, alpha, targets; None trains all weights. adapter: folder of the adapter to start from.
    autocast: type that float32 weights multiply in, None for their own.
    """

    context_parallel = 1  # no processes share its tokens

    def __init__(
        self,
        path: Text,
        dtype: Dtype,
        frames: Size,
        fps: Rate,
        lora: LoRA | None,
        adapter: Text | None,
        seed: Seed,
        gradient_checkpointing: bool,
        autocast: Dtype | None = None,
        prompts: str | None = None,
    ):
        super().__init__(path, dtype, frames, fps, prompts)
        self.whole, self.autocast = lora is None, autocast and getattr(torch, autocast)
        if self.whole:
            self.requires_grad_(True)
        else:
            config = LoraConfig(
                r=lora["rank"], lora_alpha=lora["alpha"], target_modules=list(lora["targets"]), task_type="CAUSAL_LM"
            )
            self.add_adapter(config, TRAINED, seed)
        if adapter is not None:
            self.read_adapter(adapter, TRAINED)
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.train()  # transformers checkpoints in training mode only; there is no dropout

    def forward(self, first: Tensor, second: Tensor, domains: Sequence[str]) -> Tensor:
        with torch.autocast(self.model.device.type, self.autocast, enabled=self.autocast is not None):
            return super().forward(first, second, domains)

    def expert(self, t: Tensor | None) -> nn.Module:
        """What a row trains: all of it, since it has no noise levels."""
        return self.model

    def save_adapter(self, folder: Path) -> None:
        """The adapter in peft's format; with all weights trained, a complete model folder instead."""
        if rank() > 0:
            return
        if self.whole:
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            return
        state = get_peft_model_state_dict(self.model, adapter_name=TRAINED)
        write_tensors(
            folder / WEIGHTS, {PREFIX + key: value.detach().cpu().contiguous() for key, value in state.items()}
        )
        config = self.model.peft_config[TRAINED]
        config.base_model_name_or_path = self.path
        config.target_modules = sorted(config.target_modules)  # of peft's set: its order is another in each process
        config.save_pretrained(folder)


def load(folder: Path, dtype: torch.dtype) -> tuple[nn.Module, AutoProcessor]:
    """Model and processor of a folder: safetensors only, no code of its own. UserError unless it is whole and its
    weights finite.
    """
    try:
        model, report = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True
        )
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever transformers raises for what it can't read
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"{folder}: transformers can't load this ranking model ({type(error).__name__}: {said}); copy it again"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{folder}: {len(missing)} weights are missing, {missing[0]} first; copy the folder again")
    if damaged := next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None):
        raise UserError(f"{folder}: {damaged} holds NaN or infinity; copy the folder again")
    return model.eval(), processor


@cache
def shared(path: str, dtype: str, frames: int, fps: float, device: str, prompts: str | None) -> RankingVLM:
    """One copy of a base in this process, however many rankers put adapters over it."""
    return RankingVLM(path, dtype, frames, fps, prompts).to(device)
