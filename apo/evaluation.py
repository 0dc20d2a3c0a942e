"""Evaluation of an arm: the same held-out conditions and seeds for all, metrics with intervals, pictures to look at."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from apo import card
from apo.adapter import lineage
from apo.config.outputs import run_folder
from apo.config.validation import check_values
from apo.errors import refused
from apo.evaluators import results
from apo.evaluators.before_after import draw, pick
from apo.evaluators.folder import ResultsFolder
from apo.generation import Generation, digest
from apo.io.files import sweep
from apo.io.written import Written
from apo.parts import Setting
from apo.policies.architecture import fitting
from apo.runs import Arm, EvaluationError, find, find_all


def evaluate(cfg: DictConfig) -> list[dict]:
    """Evaluates what cfg.stage names (and cfg.against, unless it is done already); writes report, contact sheet and
    videos, and of several arms one table.
    """
    with refused("the evaluation", EvaluationError):
        check_values(cfg, "Evaluating")
        arms = find_all(cfg)
        against = None if cfg.against is None else find(cfg, cfg.against, "against")
        evaluation = Evaluation(cfg)
        evaluation.check([arm for arm in (*arms, against) if arm is not None])
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    with ExitStack() as held:
        for arm in arms:
            held.enter_context(evaluation.folder(arm).holding())
        reports = [report_on(evaluation, arm, against) for arm in arms]
        if len(arms) > 1:
            write_joint(evaluation, arms, reports, against)
    return reports


def report_on(evaluation: "Evaluation", ours: Arm, theirs: Arm | None) -> dict:
    """Scores one arm, compares it with `theirs` if that is another, writes and prints its report."""
    compares = theirs is not None and ours.adapter is not None and theirs.folder.resolve() != ours.folder.resolve()
    arms = [theirs, ours] if compares else [ours]
    found, folder = score_all(evaluation, arms), evaluation.folder(ours).path
    report, reference = found[-1], found[0] if compares else None
    if reference is not None:
        compared = results.compared(report["rows"], reference["rows"], evaluation.criteria)
        report["against"] = {"run": theirs.name} | compared
    draw_arms(evaluation, arms, found)
    print(results.write(folder, report, evaluation.criteria, reference))
    if ours.adapter is not None and evaluation.results == "eval":
        card.renew(ours.adapter)
    print_places(evaluation, ours)
    from apo.modules.trackers import log_report  # Lightning takes seconds

    log_report(evaluation.cfg, ours.folder, report, evaluation.results)
    return report


def score_all(evaluation: "Evaluation", arms: Sequence[Arm]) -> list[dict]:
    """Of one arm, or of the one that it is compared with and then the arm; the former gets a report of its own if it
    has none.
    """
    theirs, folder = arms[0], evaluation.folder(arms[0])
    with folder.holding() if len(arms) > 1 and evaluation.is_unfinished(theirs) else nullcontext():
        found = [evaluation.score(arm) for arm in arms]
        if len(arms) > 1 and not results.reported(folder.path, found[0]):
            results.write(folder.path, found[0], evaluation.criteria)
    return found


def draw_arms(evaluation: "Evaluation", arms: Sequence[Arm], found: Sequence[dict]) -> None:
    """Pictures of the first conditions on which the arms differ, and then of the first others, in the last arm's
    folder.
    """
    main = next(iter(evaluation.criteria), None)
    if picked := pick(found, main and main.column, evaluation.cfg.videos):
        names = [arm.name if len({arm.name for arm in arms}) == len(arms) else str(arm.folder) for arm in arms]
        videos = [evaluation.generation.videos(arm, picked) for arm in arms]
        rows, fps = [result["rows"] for result in found], evaluation.generation.policy.spec.fps
        draw(evaluation.folder(arms[-1]).path, picked, names, rows, videos, fps, main)


def print_places(evaluation: "Evaluation", arm: Arm) -> None:
    """Where everything is, and what may be deleted."""
    folder = evaluation.folder(arm).path
    print(f"\nreport:        {folder / 'report.md'}")
    if evaluation.cfg.videos:
        print(f"contact sheet: {folder / 'contact_sheet.png'}\nside by side:  {folder / 'videos'}/*.mp4")
    if older := [path for path in folder.glob("latents-*") if path != evaluation.generation.folder(arm)]:
        size = sum(file.stat().st_size for path in older for file in path.glob("*.safetensors"))
        print(
            f"older latents: {size / 2**20:.1f} MiB of other settings, which may be deleted: "
            f"{', '.join(map(str, older))}"
        )


def write_joint(evaluation: "Evaluation", arms: Sequence[Arm], reports: Sequence[dict], against: Arm | None) -> None:
    """outputs/<run>/<results>_table.md and .csv, also printed."""
    run, name = run_folder(evaluation.cfg.run), f"{evaluation.results}_table"
    apart = against is not None and against.folder.resolve() not in [arm.folder.resolve() for arm in arms]
    rows = ([evaluation.score(against)] if apart else []) + list(reports)
    sweep(run)
    texts = {
        "md": results.joint(rows, evaluation.criteria, against and against.name) + "\n",
        "csv": results.joint_csv(rows, evaluation.criteria),
    }
    for kind, text in texts.items():
        Written(run).put(f"{name}.{kind}", lambda path, text=text: path.write_text(text, encoding="utf-8"))
    print(f"\n{texts['md']}\ntable of all:  {run / name}.md, {name}.csv")


class Evaluation:
    """What conf/evaluation describes: arms' videos of the same conditions, and what its evaluator finds on them."""

    def __init__(self, cfg: DictConfig):
        self.cfg, self.criteria = cfg, instantiate(cfg.evaluator).criteria
        self.generation = Generation(cfg)
        self.results = self.generation.results

    def folder(self, arm: Arm) -> ResultsFolder:
        return ResultsFolder(arm.folder, self.results)

    def check(self, arms: Sequence[Arm]) -> None:
        """ValueError for what can be known to be wrong before anything is loaded."""
        instantiate(self.cfg.trainer).require_gpus(1)
        for arm in arms:
            self.folder(arm).check()
        model, conditions = instantiate(self.cfg.model), self.generation.conditions
        model.check()
        model.check_weights()
        setting = Setting(model.spec, model=model, architecture=fitting(model), cfg=self.cfg)
        self.generation.guidance.check(setting)
        conditions.check(setting)
        instantiate(self.cfg.evaluator).check(replace(setting, rows=conditions.rows))
        for arm in arms:
            if arm.adapter is not None:
                lineage.require_whole(arm.adapter)
                lineage.require_base(arm.adapter, model.path, model.local() and model.base_hash(model.local()))

    def score(self, arm: Arm) -> dict:
        """The arm's report with a row of each video; read from its folder if nothing that it depends on has changed."""
        if (saved := self.saved(arm)) is not None:
            return saved
        evaluator, head = instantiate(self.cfg.evaluator), self.head(arm)
        for videos, cond in self.generation.batches(arm, f"evaluating {arm.name}"):
            evaluator.update(videos, cond)
        metrics = {name: asdict(interval) for name, interval in evaluator.compute().items()}
        scores = results.plain(head | {"metrics": metrics, "rows": evaluator.rows})
        self.folder(arm).keep(scores)
        return scores

    def saved(self, arm: Arm) -> dict | None:
        """What `score` gave for the same videos before; None if it is not there or not whole."""
        head = self.head(arm)
        found = self.folder(arm).scores(head["key"], head["n"])
        return found and found | head  # the folder may be a copy of another arm's

    def is_unfinished(self, arm: Arm) -> bool:
        """Whether an arm has no saved scores, or was left in the middle by a process that was killed."""
        return self.saved(arm) is None or self.folder(arm).was_killed()

    def head(self, arm: Arm) -> dict:
        """The first entries of a report. key: of all that it depends on."""
        evaluator = OmegaConf.to_container(self.cfg.evaluator, resolve=True)
        key = digest(self.generation.key(arm) | {"evaluator": evaluator})
        return {"key": key, "run": str(self.cfg.run), "stage": arm.name, "n": len(self.generation.conditions)}
