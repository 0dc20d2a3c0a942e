"""`make world`: the shipped checkpoint from scratch. Every step is resumable and skipped once done.

State and logs live in outputs/world; the finished pipeline is apo/world/checkpoints/wan22.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file

from apo.world.build import transformer, vae
from apo.world.build.pipeline import assemble, transformer_config
from apo.world.build.text import build_text

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "wan22"


def build_vae(folder: Path) -> None:
    if not (folder / "vae" / "config.json").exists():
        vae.build(folder)


def build_clips(folder: Path) -> None:
    from apo.world.build.encode import text_embeddings

    tokenizer, encoder = build_text(folder / "text")
    model = AutoencoderKLWan.from_pretrained(folder / "vae").requires_grad_(False)
    transformer.latents(folder, model, lambda prompts: text_embeddings(tokenizer, encoder, prompts))


def build_expert(folder: Path, name: str) -> None:
    if (folder / name / "config.json").exists():
        return
    torch.manual_seed(17)
    model = WanTransformer3DModel(**transformer_config())
    clips = load_file(folder / "clips.safetensors")
    transformer.fit(name, folder, model, clips, transformer.STEPS[name], transformer.SPANS[name], 2e-3).save_pretrained(folder / name)


def build(folder: Path) -> None:
    build_vae(folder)
    build_clips(folder)
    # the experts don't depend on each other: one process and one thread each
    jobs = [
        subprocess.Popen([sys.executable, "-m", "apo.world.build", "--step", name, "--threads", "1"]) for name in ("high", "low")
    ]
    if any(job.wait() for job in jobs):
        raise SystemExit("an expert's training stopped; run the same command again to continue")
    tokenizer, encoder = build_text(folder / "text")
    experts = [WanTransformer3DModel.from_pretrained(folder / name) for name in ("high", "low")]
    assemble(CHECKPOINT, AutoencoderKLWan.from_pretrained(folder / "vae"), tokenizer, encoder, *experts)
    print(f"world: {CHECKPOINT}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/world"))
    parser.add_argument("--step", choices=["all", "vae", "clips", *transformer.SPANS], default="all")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.step == "all":
        build(args.folder)
    elif args.step in transformer.SPANS:
        build_expert(args.folder, args.step)
    else:
        {"vae": build_vae, "clips": build_clips}[args.step](args.folder)
