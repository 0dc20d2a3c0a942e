"""Evaluation of an arm: the same held-out conditions and seeds for all, metrics with intervals, pictures to look at."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apo import quiet  # isort: skip
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from apo import lineage
from apo.data.pictures import contact_sheet, side_by_side
from apo.data.precompute import device
from apo.data.video import write_video
from apo.files import write_tensors, write_text
from apo.generate import generate, initial_noise
from apo.guidance.cfg_stg import CFGSTG
from apo.numbers import check_numbers
from apo.policies.adapter import adapter_hash, adapter_settings
from apo.policies.architecture import fitting
from apo.reports import card

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy

BASELINE = "baseline"


class EvaluationError(ValueError):
    """A mistake in what is to be evaluated, found before anything is generated."""


@dataclass
class Arm:
    """A run folder to evaluate: its adapter, or none for the baseline."""

    name: str
    folder: Path
    adapter: Path | None

    @property
    def hash(self) -> str:
        return "none" if self.adapter is None else adapter_hash(self.adapter)


def find(cfg: DictConfig, name: str | None) -> Arm:
    """The arm `name` of outputs/<run> (or a path); EvaluationError if it has no finished adapter."""
    if name in (None, BASELINE):
        return Arm(BASELINE, Path("outputs") / cfg.run / BASELINE, None)
    folder = next((f for f in (Path("outputs") / cfg.run / name, Path(name)) if f.is_dir()), None)
    if folder is None:
        there = sorted(p.name for p in (Path("outputs") / cfg.run).glob("*") if (p / "adapter").is_dir())
        finished = ", ".join(there) or "nothing"
        raise EvaluationError(f"outputs/{cfg.run}/{name} is not there; outputs/{cfg.run} has finished: {finished}")
    if not (folder / "adapter" / "lineage.json").is_file():
        raise EvaluationError(f"{folder} has no finished adapter: run its train.py command again, it continues")
    return Arm(folder.name, folder, folder / "adapter")


def find_all(cfg: DictConfig) -> list[Arm]:
    """The arms that cfg.arm names: one, or all finished ones that match a pattern like 'ablation_*-seed_0'."""
    if cfg.arm is None or not set(cfg.arm) & set("*?["):
        return [find(cfg, cfg.arm)]
    run = Path("outputs") / cfg.run
    names = sorted(p.name for p in run.glob(cfg.arm) if (p / "adapter" / "lineage.json").is_file())
    if not names:
        raise EvaluationError(f"nothing in {run} matches stage={cfg.arm} and has a finished adapter")
    return [find(cfg, name) for name in names]


def evaluate(cfg: DictConfig) -> list[dict]:
    """Evaluates what cfg.arm names (and cfg.against, unless it is done already); writes report, contact sheet and videos."""
    try:
        check_numbers(cfg)
        arms = find_all(cfg)
        against = find(cfg, cfg.against) if cfg.against else None
        judge = Judge(cfg)
        judge.check([arm for arm in (*arms, against) if arm is not None])
    except Exception as error:  # hydra wraps what a constructor raises; the cause has the field and the remedy
        raise EvaluationError(str(error.__cause__ or error)) from error
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    return [report_on(judge, arm, against) for arm in arms]


def report_on(judge: "Judge", ours: Arm, theirs: Arm | None) -> dict:
    """Scores one arm, compares it with `theirs`, writes and prints its report."""
    both = [arm for arm in (theirs if ours.adapter is not None else None, ours) if arm is not None]
    results = [judge.score(arm) for arm in both]
    report, reference = results[-1], results[0] if len(both) > 1 else None
    if reference is not None:
        report["against"] = {"run": theirs.name} | compared(report["rows"], reference["rows"])
        if not reported(theirs.folder / judge.subfolder, reference):
            write(theirs.folder / judge.subfolder, reference)
    folder = ours.folder / judge.subfolder
    judge.draw(both, results, folder)
    print(write(folder, report, reference))
    if ours.adapter is not None and judge.subfolder == "eval":
        card.write(ours.adapter, json.loads((ours.adapter / "lineage.json").read_text()))
    print(f"\nreport:        {folder / 'report.md'}")
    if judge.cfg.videos:
        print(f"contact sheet: {folder / 'contact_sheet.png'}\nside by side:  {folder / 'videos'}/*.mp4")
    return report


class Judge:
    """Generates and measures the conditions of an evaluation, one arm after another over one copy of the base weights."""

    def __init__(self, cfg: DictConfig):
        self.cfg, self.guidance, self.conditions = cfg, instantiate(cfg.guidance), instantiate(cfg.conditions)
        split = cfg.conditions.get("split", "prompts")
        self.subfolder = cfg.results or ("eval" if split == "test" else f"eval_{split}")
        self.policy, self.settings = None, None

    def check(self, arms: list[Arm]) -> None:
        """ValueError for what can be known to be wrong before anything is loaded."""
        model = instantiate(self.cfg.model)
        model.check()
        fitting(model)
        self.conditions.check(model.spec)
        instantiate(self.cfg.evaluator).check(model.spec)
        if isinstance(self.guidance, CFGSTG):
            self.guidance.check(model)
        for arm in arms:
            if arm.adapter is not None:
                lineage.require_whole(arm.adapter)
                lineage.require_base(arm.adapter, model.path, model.local() and model.base_hash(model.local()))

    def key(self, arm: Arm) -> dict:
        """What a result depends on: results under another key are made anew."""
        plain = OmegaConf.to_container(self.cfg, resolve=True)
        key = {k: plain[k] for k in ("model", "guidance", "evaluator", "conditions", "seed", "batch_size")} | {"adapter": arm.hash}
        return key | ({"identity": self.conditions.identity} if hasattr(self.conditions, "identity") else {})

    def load(self, arm: Arm) -> "WanPolicy":
        """The policy with the arm's adapter in it; base weights are read once for all arms with one LoRA layout."""
        from apo.policies.wan import WanPolicy  # diffusers takes seconds

        quiet.silence()
        spare = self.settings or {"rank": 1, "alpha": 1, "targets": ["to_q"]}  # the baseline runs without its adapter
        settings = adapter_settings(arm.adapter) if arm.adapter else spare
        if settings != self.settings:
            self.policy = WanPolicy(instantiate(self.cfg.model), settings, None, 0, False, offload=self.cfg.trainer.offload).eval()
            self.policy.to(device(self.cfg.trainer.accelerator, 0))
            self.settings = settings
        if arm.adapter:
            lineage.require_base(arm.adapter, self.policy.model.path, self.policy.base_hash)  # again: a model of the hub is here only now
            self.policy.load_adapter(arm.adapter)
        return self.policy

    def score(self, arm: Arm) -> dict:
        """The arm's report with its per-video rows; read from its folder if nothing that it depends on has changed."""
        folder, key = arm.folder / self.subfolder, self.key(arm)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        done = folder / "rows.json"
        if done.exists() and (saved := json.loads(done.read_text()))["key"] == digest:
            return saved
        evaluator = instantiate(self.cfg.evaluator)
        for videos, cond in self.videos(arm, digest, f"evaluating {arm.name}"):
            evaluator.update(videos, cond)
        metrics = {name: asdict(interval) for name, interval in evaluator.compute().items()}
        count = len(self.conditions)
        result = {"key": digest, "run": self.cfg.run, "stage": arm.name, "n": count, "metrics": metrics, "rows": evaluator.rows}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(done, json.dumps(result))
        return result

    def videos(self, arm: Arm, digest: str, label: str):
        """Yields (videos, cond) by batches; latents are kept on disk, so an interrupted evaluation goes on."""
        count, size = len(self.conditions), self.cfg.batch_size
        parts, policy = arm.folder / self.subfolder / f"latents-{digest}", self.load(arm)
        parts.mkdir(parents=True, exist_ok=True)
        for start in tqdm(range(0, count, size), label):
            stop = min(start + size, count)
            cond = policy.encode_condition(*self.conditions.batch(start, stop))
            part = parts / f"{start:06d}.safetensors"
            if not part.exists():
                noise = initial_noise(policy, [self.cfg.seed * 10**6 + i for i in range(start, stop)])
                if arm.adapter is None:
                    with policy.base():
                        latents = generate(policy, self.guidance, cond, noise)
                else:
                    latents = generate(policy, self.guidance, cond, noise)
                write_tensors(part, {"latents": latents})
            yield policy.decode(load_file(part)["latents"]), cond

    def draw(self, arms: list[Arm], results: list[dict], folder: Path) -> None:
        """contact_sheet.png and videos/*.mp4, all arms side by side, captions red where distorted.

        Of two arms, the first conditions on which their verdicts differ, better or worse, and then the first others.
        """
        places = range(len(self.conditions))
        differ = [i for i in places if len({result["rows"][i].get("distorted") for result in results}) > 1]
        picked = [*differ, *(i for i in places if i not in set(differ))][: self.cfg.videos]
        if not picked:
            return
        for old in (folder / "videos").glob("*.mp4"):  # perhaps of other conditions
            old.unlink()
        shown = [self.kept(arm, result["key"], picked) for arm, result in zip(arms, results)]
        rows, captions, colours = [], [], []
        for place, i in enumerate(picked):
            for arm, result, videos in zip(arms, results, shown):
                row = result["rows"][i]
                rows.append(videos[place])
                captions.append(f"{arm.name}: {row['prompt']}" + (f" ({row['cause'] or 'clean'})" if "cause" in row else ""))
                colours.append("firebrick" if row.get("distorted") else "black")
            write_video(folder / "videos" / f"{i:03d}.mp4", side_by_side([v[place] for v in shown]), self.policy.spec.fps)
        contact_sheet(folder / "contact_sheet.png", rows, captions, colours)

    def kept(self, arm: Arm, digest: str, places: list[int]) -> Tensor:
        """The videos (len(places), F, 3, H, W) uint8 of some conditions, from the latents that `videos` kept."""
        policy, size = self.load(arm), self.cfg.batch_size
        return torch.cat([policy.decode(part).cpu() for part in self.latents(arm, digest, places).split(size)])

    def latents(self, arm: Arm, digest: str, places: Sequence[int]) -> Tensor:
        """(len(places), C, F, H, W)"""
        parts, size = arm.folder / self.subfolder / f"latents-{digest}", self.cfg.batch_size
        return torch.stack([load_file(parts / f"{i // size * size:06d}.safetensors")["latents"][i % size] for i in places])

    @contextmanager
    def policy_of(self, arm: Arm) -> Iterator["WanPolicy"]:
        """Inside, the policy is the arm."""
        policy = self.load(arm)
        with policy.base() if arm.adapter is None else nullcontext():
            yield policy


def compared(ours: list[dict], theirs: list[dict]) -> dict:
    """win, tie and loss on the same conditions, with the win rate's interval: of clean against distorted, and of
    followed against not under `instruction_following`, as far as the evaluator has such verdicts."""
    found = {}
    if ours and "distorted" in ours[0]:
        found |= outcomes([not row["distorted"] for row in ours], [not row["distorted"] for row in theirs])
    if ours and "followed" in ours[0]:
        found["instruction_following"] = outcomes([row["followed"] for row in ours], [row["followed"] for row in theirs])
    return found


def outcomes(ours: list[bool], theirs: list[bool]) -> dict:
    from apo.evaluators.win_rate import WinRate  # torchmetrics takes seconds

    rate = WinRate()
    rate.update(torch.tensor(ours).float(), torch.tensor(theirs).float())
    result = rate.compute()
    return {k: result[k] for k in ("win", "tie", "loss")} | {"win_rate": asdict(result["win_rate"])}


def write(folder: Path, report: dict, against: dict | None = None) -> str:
    """report.json and report.md; returns the latter's text."""
    write_text(folder / "report.json", json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1))
    columns = ([against] if against else []) + [report]
    lines = [f"# {report['run']}: {report['stage']}, {report['n']} held-out videos", ""]
    if report["metrics"]:
        lines += ["| metric (95 % interval) | " + " | ".join(c["stage"] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(shown(c["metrics"][name]) for c in columns) + " |" for name in report["metrics"]]
    causes = sorted({row["cause"] for c in columns for row in c["rows"] if row.get("cause")})
    for cause in causes:
        lines.append(f"| {cause} | " + " | ".join(str(sum(r["cause"] == cause for r in c["rows"])) for c in columns) + " |")
    if "against" in report:
        a, said = report["against"], "{win} won, {tie} tied, {loss} lost"
        verdicts = [said.format(**a) + " (clean beats distorted)"] if "win" in a else []
        if "instruction_following" in a:
            verdicts.append("instruction following: " + said.format(**a["instruction_following"]))
        lines += ["", f"Against {a['run']}: {'; '.join(verdicts) or 'no verdicts to compare'}."]
    text = "\n".join(lines)
    write_text(folder / "report.md", text + "\n")
    return text


def reported(folder: Path, result: dict) -> bool:
    """Whether there is a report of this result already, perhaps with a comparison of its own."""
    path = folder / "report.json"
    if not path.exists():
        return False
    saved = json.loads(path.read_text())
    return saved["metrics"] == result["metrics"] and saved.get("key", result["key"]) == result["key"]


def shown(interval: dict) -> str:
    return "{value:.3f} ({low:.3f}-{high:.3f})".format(**interval)
