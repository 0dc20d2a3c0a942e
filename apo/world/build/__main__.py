"""`make world`: the shipped checkpoint from scratch. Every step is resumable and skipped once done.

State and logs live in outputs/world; the finished pipeline is apo/world/checkpoints/wan22.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from apo.world.build import transformer
from apo.world.build import vae as autoencoder
from apo.world.build.encode import text_embeddings
from apo.world.build.pipeline import assemble, transformer_config
from apo.world.build.text import build_text

PARTS = 2  # processes that encode clips
FLOW_SHIFT = 6.0  # of the solver: fewest distorted validation videos among 3, 5, 6, 6.5 and 8 (docs/world.md)
CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "wan22"


def build_vae(folder: Path) -> None:
    if not (folder / "vae" / "config.json").exists():
        autoencoder.build(folder)


def build_clips(folder: Path, part: int) -> None:
    model = AutoencoderKLWan.from_pretrained(folder / "vae").requires_grad_(False)
    share = transformer.CLIPS // PARTS
    transformer.encode_clips(folder / f"clips-{part}.safetensors", model, range(part * share, (part + 1) * share))


def build_expert(folder: Path, name: str, start: Path | None = None) -> None:
    """Trains the expert from scratch, or from the one in `start`."""
    if (folder / name / "config.json").exists():
        return
    tokenizer, encoder = build_text(folder / "text")
    paths = [folder / f"clips-{part}.safetensors" for part in range(PARTS)]
    clips = transformer.load_clips(paths, lambda prompts: text_embeddings(tokenizer, encoder, prompts))
    torch.manual_seed(17)
    model = WanTransformer3DModel(**transformer_config())
    if start is not None:
        model.load_state_dict(WanTransformer3DModel.from_pretrained(start / name).state_dict())
    transformer.fit(name, folder, model, clips).save_pretrained(folder / name)


def side_by_side(steps: list[str], folder: Path) -> None:
    """Steps that don't depend on each other: one process and one thread each."""
    program = [sys.executable, "-m", "apo.world.build", "--folder", str(folder)]
    jobs = [subprocess.Popen([*program, "--step", step]) for step in steps]
    if any([job.wait() for job in jobs]):
        raise SystemExit("a step of the build stopped; run the same command again to continue")


def build(folder: Path, checkpoint: Path) -> None:
    build_vae(folder)
    side_by_side([f"clips-{part}" for part in range(PARTS)], folder)
    side_by_side(list(transformer.SPANS), folder)
    tokenizer, encoder = build_text(folder / "text")
    experts = [WanTransformer3DModel.from_pretrained(folder / name) for name in ("high", "low")]
    vae = AutoencoderKLWan.from_pretrained(folder / "vae")
    assemble(checkpoint, vae, tokenizer, encoder, *experts, flow_shift=FLOW_SHIFT)
    print(f"world: {checkpoint}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/world"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="where the finished pipeline goes")
    parser.add_argument(
        "--step", choices=["all", "vae", *(f"clips-{part}" for part in range(PARTS)), *transformer.SPANS], default="all"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", type=Path, help="a folder with experts to start from, instead of from scratch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.step == "all":
        build(args.folder, args.checkpoint)
    elif args.step == "vae":
        build_vae(args.folder)
    elif args.step in transformer.SPANS:
        build_expert(args.folder, args.step, args.start)
    else:
        build_clips(args.folder, int(args.step[-1]))
