"""The model card beside an adapter, README.md: what it was made from, how to load it, what was measured."""

import json
from pathlib import Path

from apo.adapter.lineage import read
from apo.evaluators import results
from apo.io.files import write_text
from apo.policies.adapter import FILES

LOADING = {
    "high_noise.safetensors": 'pipe.load_lora_weights(".", weight_name="high_noise.safetensors", adapter_name="apo")',
    "low_noise.safetensors": 'pipe.load_lora_weights(".", weight_name="low_noise.safetensors", adapter_name="apo_low", '
    "load_into_transformer_2=True)",
}


MEASURED = "## Measured"


def write(adapter: Path, lineage: dict) -> None:
    """README.md in the adapter's folder; `lineage` is what its lineage.json holds or will hold."""
    write_text(adapter / "README.md", card(adapter, lineage))


def renew(adapter: Path) -> None:
    """The section "Measured" of the card again, after an evaluation; what else somebody has written there stays."""
    path = adapter / "README.md"
    if not path.is_file():
        return write(adapter, read(adapter))
    before, heading, rest = path.read_text(encoding="utf-8").partition(MEASURED)
    _, following, after = rest.partition("\n## ")
    if heading:
        write_text(path, before + heading + "\n".join(["", "", *measured(report_of(adapter)), following + after]))


def report_of(adapter: Path) -> Path:
    return adapter.parent / "eval" / "report.json"


def card(adapter: Path, lineage: dict) -> str:
    config = lineage["config"]
    lines = [*front_matter(lineage), f"# {config['run']}: {lineage['stage']}", ""]
    lines += [
        "A LoRA adapter trained with [Diffusion-APO](https://arxiv.org/abs/2605.07503) by this repository's",
        "`train.py`.",
        "",
    ]
    lines += ["## Base and data", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in origin(lineage).items()]
    lines += [
        "",
        "## Stages",
        "",
        "| stage | steps | batch per rank | learning rate | β | timesteps | seed |",
        "|---" * 7 + "|",
    ]
    lines += [stage_row(stage) for stage in stages(lineage)]
    lines += ["", "## Loading", "", *loading(lineage), "", MEASURED, "", *measured(report_of(adapter))]
    lines += ["", "## Files", "", *(f"- `{name}`: sha256 `{digest}`" for name, digest in lineage["files"].items()), ""]
    return "\n".join(lines)


def front_matter(lineage: dict) -> list[str]:
    """What the hub reads. A base that is a folder of one machine is not named."""
    path, ranker = lineage["base"]["path"], is_ranker(lineage)
    named = path.count("/") == 1 and not Path(path).exists()
    tags = ["lora", "preference-ranking"] if ranker else ["lora", "dpo", "image-to-video"]
    return [
        "---",
        *([f"base_model: {path}"] if named else []),
        f"library_name: {'peft' if ranker else 'diffusers'}",
        *([] if ranker else ["pipeline_tag: image-to-video"]),
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
        "",
    ]


def origin(lineage: dict) -> dict[str, str]:
    config, base = lineage["config"], lineage["base"]
    lora = (config.get("vlm") or config["policy"])["lora"]
    spec, data = config["model"]["spec"], config["data"]
    return {
        "base model": f"`{base['path']}`, fingerprint `{base['hash']}`",
        "adapter": "all weights"
        if lora is None
        else f"rank {lora['rank']}, alpha {lora['alpha']}, on {', '.join(lora['targets'])}"
        + (f", the moving average of decay {config['ema_decay']:g}" if config.get("ema_decay") else ""),
        "videos": f"{spec['height']} x {spec['width']}, {spec['frames']} frames, {spec['fps']:g} per second",
        "data": f"`{data['_target_']}` {Path(data.get('path') or '').name}, digest `{lineage['data'][:16]}`",
        "preceding adapter": "none: the base itself" if lineage["preceding"] is None else preceding_files(lineage),
    }


def preceding_files(lineage: dict) -> str:
    return ", ".join(f"`{name}` {digest[:16]}" for name, digest in lineage["preceding"].items())


def stages(lineage: dict) -> list[dict]:
    """The lineages that led here, the first stage first, as far as their folders are still there and unchanged."""
    found = [lineage]
    while (path := found[0]["config"].get("adapter")) is not None:
        file = Path(path) / "lineage.json"
        before = json.loads(file.read_text()) if file.is_file() else None
        if before is None or before["files"] != found[0]["preceding"]:
            break
        found.insert(0, before)
    return found


def stage_row(lineage: dict) -> str:
    config = lineage["config"]
    sampler, beta = (
        config.get("sampler", {}).get("_target_", "").split(".")[-1],
        config.get("objective", {}).get("beta"),
    )
    ours = not is_ranker(lineage) and lineage["stage"] != "sft"
    cells = [lineage["stage"], config["max_steps"], config["batch_size"], f"{config['optimizer']['lr']:g}"]
    cells += [f"{beta:g}" if ours and beta is not None else "", "" if is_ranker(lineage) else sampler, config["seed"]]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def loading(lineage: dict) -> list[str]:
    if is_ranker(lineage):
        return ["In this repository: `ranker=qwen3_vl ranker.adapter=<this folder>`."]
    model = lineage["config"]["model"]
    files = [name for name in FILES.values() if name in lineage["files"]]
    return [
        "```python",
        "import torch",
        "from diffusers import WanImageToVideoPipeline",
        "",
        f'pipe = WanImageToVideoPipeline.from_pretrained("{lineage["base"]["path"]}", '
        f"torch_dtype=torch.{model['dtype']})",
        f"pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, flow_shift={model['shift']:g})",
        *(LOADING[name] for name in files),
        "```",
        "",
        f"Sampled with shift {model['shift']:g}, {model['num_inference_steps']} steps"
        + (
            f"; `transformer` is the high-noise expert, at t >= {1000 * model['boundary']:g}."
            if model["boundary"]
            else "."
        ),
        "Other programs: `python -m apo.export <this folder> --out exported` writes the layout of ComfyUI and of the "
        "original Wan code.",
    ]


def measured(report: Path) -> list[str]:
    """The evaluation's table, if there was one."""
    if (found := results.read(report)) is None:
        return ["Not evaluated yet: `python evaluate.py run=... stage=...` adds a table here."]
    rows = ["| metric | value | 95 % interval |", "|---|---|---|"]
    rows += [f"| {name} | {' | '.join(results.numbers(metric))} |" for name, metric in found["metrics"].items()]
    against = found.get("against")
    won = (
        []
        if against is None or "win" not in against
        else ["", "Against {run}: {win} won, {tie} tied, {loss} lost.".format(**against)]
    )
    return [f"On {found['n']} held-out conditions:", "", *rows, *won]


def is_ranker(lineage: dict) -> bool:
    return lineage["config"].get("vlm") is not None
