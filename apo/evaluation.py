"""Evaluation of an arm: the same held-out conditions and seeds for all, metrics with intervals, pictures to look at."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from apo import quiet  # isort: skip
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from apo import card
from apo.adapter import lineage
from apo.config.outputs import require_inside, results_name, run_folder
from apo.config.validation import check_values
from apo.distributed import device
from apo.errors import UserError, refused
from apo.evaluators import results
from apo.evaluators.before_after import draw, pick
from apo.guidance.cfg_stg import CFGSTG
from apo.interfaces import Condition
from apo.io.checksums import Checksums
from apo.io.files import require_no_folder, sweep, write_tensors
from apo.io.lock import holding, was_killed
from apo.io.written import Written
from apo.modules.cluster import require_accelerator
from apo.policies.adapter import adapter_hash, adapter_settings
from apo.policies.architecture import fitting
from apo.runs import Arm, EvaluationError, find, find_all
from apo.solvers.ode import generate, initial_noise
from apo.terminal import progress

if TYPE_CHECKING:
    from apo.policies.wan import WanPolicy


def evaluate(cfg: DictConfig) -> list[dict]:
    """Evaluates what cfg.arm names (and cfg.against, unless it is done already); writes report, contact sheet and videos, and of
    several arms one table."""
    with refused("the evaluation", EvaluationError):
        check_values(cfg, "Evaluating")
        arms = find_all(cfg)
        against = None if cfg.against is None else find(cfg, cfg.against, "against")
        judge = Judge(cfg)
        judge.check([arm for arm in (*arms, against) if arm is not None])
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    with ExitStack() as held:
        for arm in arms:
            held.enter_context(judge.holding(arm))
        reports = [report_on(judge, arm, against) for arm in arms]
        if len(arms) > 1:
            write_joint(judge, arms, reports, against)
    return reports


def report_on(judge: "Judge", ours: Arm, theirs: Arm | None) -> dict:
    """Scores one arm, compares it with `theirs` if that is another, writes and prints its report."""
    compares = theirs is not None and ours.adapter is not None and theirs.folder.resolve() != ours.folder.resolve()
    both = [theirs, ours] if compares else [ours]
    with judge.holding(theirs) if compares and judge.is_unfinished(theirs) else nullcontext():
        found = [judge.score(arm) for arm in both]
        report, reference = found[-1], found[0] if compares else None
        if reference is not None and not results.reported(theirs.folder / judge.subfolder, reference):
            results.write(theirs.folder / judge.subfolder, reference)
    if reference is not None:
        report["against"] = {"run": theirs.name} | results.compared(report["rows"], reference["rows"])
    folder = ours.folder / judge.subfolder
    judge.draw(both, found, folder)
    print(results.write(folder, report, reference))
    if ours.adapter is not None and judge.subfolder == "eval":
        card.renew(ours.adapter)
    print(f"\nreport:        {folder / 'report.md'}")
    if judge.cfg.videos:
        print(f"contact sheet: {folder / 'contact_sheet.png'}\nside by side:  {folder / 'videos'}/*.mp4")
    if older := [path for path in folder.glob("latents-*") if path.name != f"latents-{report['key']}"]:
        size = sum(file.stat().st_size for path in older for file in path.glob("*.safetensors"))
        print(
            f"older latents: {size / 2**20:.1f} MiB of other settings, which may be deleted: {', '.join(map(str, older))}"
        )
    from apo.modules.trackers import log_report  # Lightning takes seconds

    log_report(judge.cfg, ours.folder, report, judge.subfolder)
    return report


def write_joint(judge: "Judge", arms: Sequence[Arm], reports: Sequence[dict], against: Arm | None) -> None:
    """outputs/<run>/<results>_table.md and .csv, also printed."""
    run, name = run_folder(judge.cfg.run), f"{judge.subfolder}_table"
    apart = against is not None and against.folder.resolve() not in [arm.folder.resolve() for arm in arms]
    rows = ([judge.score(against)] if apart else []) + list(reports)
    sweep(run)
    texts = {"md": results.joint(rows, against and against.name) + "\n", "csv": results.joint_csv(rows)}
    for kind, text in texts.items():
        Written(run).put(f"{name}.{kind}", lambda path, text=text: path.write_text(text, encoding="utf-8"))
    print(f"\n{texts['md']}\ntable of all:  {run / name}.md, {name}.csv")


class Judge:
    """Generates and measures the conditions of an evaluation, one arm after another over one copy of the base weights."""

    def __init__(self, cfg: DictConfig):
        self.cfg, self.guidance, self.conditions = cfg, instantiate(cfg.guidance), instantiate(cfg.conditions)
        split = cfg.conditions.get("split", "prompts")
        self.subfolder = results_name(
            cfg.results if cfg.results is not None else "eval" if split == "test" else f"eval_{split}"
        )
        self.policy, self.settings, self.loaded = None, None, None

    def check(self, arms: list[Arm]) -> None:
        """ValueError for what can be known to be wrong before anything is loaded."""
        require_accelerator(self.cfg.trainer.accelerator, 1, torch.cuda.device_count())
        for arm in arms:
            self.check_folder(arm)
        model = instantiate(self.cfg.model)
        model.check()
        model.check_weights()
        fitting(model)
        self.conditions.check(model.spec)
        instantiate(self.cfg.evaluator).check(model.spec, self.conditions.rows)
        if isinstance(self.guidance, CFGSTG):
            self.guidance.check(model)
        for arm in arms:
            if arm.adapter is not None:
                lineage.require_whole(arm.adapter)
                lineage.require_base(arm.adapter, model.path, model.local() and model.base_hash(model.local()))

    def check_folder(self, arm: Arm) -> None:
        """UserError unless results may be written there: a folder of the arm's own, without other programs' files in their places."""
        folder = arm.folder / self.subfolder
        for place in (folder, folder / "videos", *folder.glob("latents-*")):
            require_inside(place, arm.folder, f"results={self.subfolder}")
            if place.exists() and not place.is_dir():
                raise UserError(f"results={self.subfolder}: {place} is a file: move it away, or give another name")
        for path in folder.glob("latents-*/*.safetensors"):
            require_no_folder(path)
        written = Written(folder)
        for name in ("rows.json", "report.json"):
            results.require_ours(folder / name)
            if (folder / name).exists() and (results.read(folder / name) is None or written.changed(name)):
                print(f"damaged or changed since it was written, made anew: {folder / name}", file=sys.stderr)

    def key(self, arm: Arm) -> dict:
        """What a result depends on: results under another key are made anew."""
        plain = OmegaConf.to_container(self.cfg, resolve=True)
        key = {k: plain[k] for k in ("model", "guidance", "evaluator", "conditions", "seed", "batch_size")}
        key["adapter"] = "none" if arm.adapter is None else adapter_hash(arm.adapter)
        return key | ({"identity": self.conditions.identity} if hasattr(self.conditions, "identity") else {})

    def load(self, arm: Arm) -> "WanPolicy":
        """The policy with the arm's adapter in it; base weights are read once for all arms with one LoRA layout."""
        if arm == self.loaded:
            return self.policy
        from apo.policies.wan import WanPolicy  # diffusers takes seconds

        quiet.silence()
        spare = self.settings or {"rank": 1, "alpha": 1, "targets": ["to_q"]}  # the baseline runs without its adapter
        settings = adapter_settings(arm.adapter) if arm.adapter else spare
        if settings != self.settings:
            self.policy = WanPolicy(
                instantiate(self.cfg.model), settings, None, 0, False, offload=self.cfg.trainer.offload
            ).eval()
            self.policy.to(device(self.cfg.trainer.accelerator, 0))
            self.settings = settings
        if arm.adapter:
            lineage.require_base(
                arm.adapter, self.policy.model.path, self.policy.base_hash
            )  # again: a model of the hub is here only now
            self.policy.load_adapter(arm.adapter)
        self.loaded = arm
        return self.policy

    def score(self, arm: Arm) -> dict:
        """The arm's report with its per-video rows; read from its folder if nothing that it depends on has changed."""
        if (saved := self.saved(arm)) is not None:
            return saved
        evaluator, head = instantiate(self.cfg.evaluator), self.head(arm)
        for videos, cond in self.videos(arm, head["key"], f"evaluating {arm.name}"):
            evaluator.update(videos, cond)
        metrics = {name: asdict(interval) for name, interval in evaluator.compute().items()}
        result = results.plain(head | {"metrics": metrics, "rows": evaluator.rows})
        text = json.dumps(result)
        Written(arm.folder / self.subfolder).put(
            "rows.json", lambda path: path.write_text(text, encoding="utf-8"), always=True
        )
        return result

    def saved(self, arm: Arm) -> dict | None:
        """What `score` gave for the same videos before; None if it is not there or not whole."""
        folder, head = arm.folder / self.subfolder, self.head(arm)
        found = results.read(folder / "rows.json")
        whole = found is not None and found.get("key") == head["key"] and found["n"] == head["n"]
        return (
            found | head if whole and not Written(folder).changed("rows.json") else None
        )  # perhaps copied from another arm

    def is_unfinished(self, arm: Arm) -> bool:
        """Whether an arm has no saved scores, or was left in the middle by a process that was killed."""
        return self.saved(arm) is None or was_killed(arm.folder / self.subfolder)

    def head(self, arm: Arm) -> dict:
        digest = hashlib.sha256(json.dumps(self.key(arm), sort_keys=True).encode()).hexdigest()[:16]
        return {"key": digest, "run": str(self.cfg.run), "stage": arm.name, "n": len(self.conditions)}

    @contextmanager
    def holding(self, arm: Arm) -> Iterator[None]:
        """Inside, no other evaluation writes the arm's results; what killed ones were writing is removed."""
        folder = arm.folder / self.subfolder
        with holding(folder, "wait for it, stop it, or give another results=NAME"):
            for place in (folder, folder / "videos", *folder.glob("latents-*")):
                sweep(place)
            yield

    def videos(self, arm: Arm, digest: str, label: str) -> Iterator[tuple[Tensor, Condition]]:
        """(videos, cond) by batches; latents are kept on disk, so an interrupted evaluation goes on."""
        count, size, policy = len(self.conditions), self.cfg.batch_size, self.load(arm)
        for start in progress(range(0, count, size), label):
            cond = policy.encode_condition(*self.conditions.batch(start, min(start + size, count)))
            yield policy.decode(self.part(arm, digest, start, cond)), cond

    def part(self, arm: Arm, digest: str, start: int, cond: Condition | None = None) -> Tensor:
        """Latents (B, C, F, H, W) of the batch that begins at condition `start`: from disk if they are whole there."""
        stop = min(start + self.cfg.batch_size, len(self.conditions))
        path = arm.folder / self.subfolder / f"latents-{digest}" / f"{start:06d}.safetensors"
        if (kept := whole_latents(path, stop - start)) is not None:
            return kept
        with self.policy_of(arm) as policy:
            cond = cond or policy.encode_condition(*self.conditions.batch(start, stop))
            noise = initial_noise(policy, [self.cfg.seed * 10**6 + i for i in range(start, stop)])
            latents = generate(policy, self.guidance, cond, noise)
        if not latents.isfinite().all():
            raise UserError(
                f"{arm.name}: what it generates from conditions {start} to {stop - 1} is not finite: look for NaN in its adapter "
                f"and {self.cfg.model.path}, try model.dtype=float32, or lower the guidance"
            )
        write_tensors(path, {"latents": latents})
        Checksums(path.parent, "written").record(path)
        return latents

    def draw(self, arms: Sequence[Arm], found: Sequence[dict], folder: Path) -> None:
        """Pictures of the first conditions on which the arms differ, and then of the first others."""
        if picked := pick(found, "distorted", self.cfg.videos):
            names = [arm.name if len({arm.name for arm in arms}) == len(arms) else str(arm.folder) for arm in arms]
            videos = [self.kept(arm, result["key"], picked) for arm, result in zip(arms, found)]
            draw(folder, picked, names, [result["rows"] for result in found], videos, self.policy.spec.fps)

    def kept(self, arm: Arm, digest: str, places: list[int]) -> Tensor:
        """The videos (len(places), F, 3, H, W) uint8 of some conditions, from the latents that `videos` kept."""
        policy, size = self.load(arm), self.cfg.batch_size
        return torch.cat([policy.decode(part).cpu() for part in self.latents(arm, digest, places).split(size)])

    def latents(self, arm: Arm, digest: str, places: Sequence[int]) -> Tensor:
        """(len(places), C, F, H, W)"""
        size = self.cfg.batch_size
        parts = {start: self.part(arm, digest, start) for start in sorted({i // size * size for i in places})}
        return torch.stack([parts[i // size * size][i % size] for i in places])

    @contextmanager
    def policy_of(self, arm: Arm) -> Iterator["WanPolicy"]:
        """Inside, the policy is the arm."""
        policy = self.load(arm)
        with policy.base() if arm.adapter is None else nullcontext():
            yield policy


def whole_latents(path: Path, count: int) -> Tensor | None:
    """(count, C, F, H, W) of a file; None if it is not there, or damaged, which is said."""
    if not path.is_file():
        return None
    try:
        latents = load_file(path)["latents"] if Checksums(path.parent, "written").holds(path) else None
    except (SafetensorError, KeyError):
        latents = None
    if latents is None or len(latents) != count or not latents.isfinite().all():
        print(f"damaged, made anew: {path}", file=sys.stderr)
        return None
    return latents
