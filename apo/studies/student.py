"""A distilled student against its teacher under guidance, on held-out conditions (Eq. 4, Section 4.3):

    python -m apo.studies.student --run curriculum/seed_0

Needs no evaluation before: what evaluate.py has done already is read, the rest is made.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from apo.adapter import lineage
from apo.config.overrides import composed
from apo.evaluation import Evaluation
from apo.evaluators.results import shown
from apo.flow import noised
from apo.guidance.none import NoGuidance
from apo.intervals import bootstrap_median, mean_interval
from apo.io.files import write_json, write_text
from apo.random import generator
from apo.runs import BASELINE, Arm, find
from apo.solvers.ode import generate, initial_noise
from apo.studies.docs import DOCS, fill
from apo.terminal import progress
from apo.timing import clock

LEVELS = (980.0, 940.0, 880.0, 700.0, 400.0, 100.0)  # timesteps; the first two belong to the high-noise expert
TIMED = 8  # videos of the timing
NOTES = """ The teacher is the preceding stage under the guidance that it was distilled with; "unguided" is the same
adapter in one forward, what the student was before it learned. All from equal conditions and noise. MSE is of
velocities, at x_t on the way from the guided teacher's own videos to fresh noise; "absorbed" is 1 − student / unguided.
PSNR and SSIM are of decoded videos against the guided teacher's, without their first frame, which is given; means over
videos, 95 % intervals. Speed: sampling the same batch with both, in turns, in this process, without decoding; the paper
reports 3x. """


@dataclass
class Two:
    """The evaluations of guided and of unguided videos, the student, its teacher, and the guidance between them."""

    guided: Evaluation
    plain: Evaluation
    teacher: Arm
    student: Arm
    guidance: dict  # its config


def prepare(run: str, student: str, overrides: list[str]) -> Two:
    """From the student's lineage; ValueError if it is not a distilled one, or its teacher has been trained again
    since."""
    plain, guided = (
        composed("evaluate", [f"run={run}", f"stage={student}", "against=null", *overrides]) for _ in range(2)
    )
    arm = find(plain, student)
    made = lineage.read(arm.adapter)
    if made["stage"] != "distill":
        raise ValueError(
            f"{arm.folder} is of stage={made['stage']}: give the folder of a stage=distill run as --student"
        )
    guided.guidance, guided.results = made["config"]["guidance"], "eval_guided"
    before = made["config"]["adapter"]
    teacher = (
        find(plain, BASELINE) if before is None else Arm(Path(before).parent.name, Path(before).parent, Path(before))
    )
    if before is not None and made["preceding"] != (now := lineage.read(Path(before))["files"]):
        raise ValueError(
            f"{arm.folder} was distilled from {lineage.short(made['preceding'])}, and {before} now holds "
            f"{lineage.short(now)}: "
            "distill the student again"
        )
    return Two(Evaluation(guided), Evaluation(plain), teacher, arm, made["config"]["guidance"])


@torch.no_grad()
def errors(two: Two, count: int, seed: int) -> list[dict]:
    """Per timestep of LEVELS, over the first `count` conditions: MSE to the guided teacher of the student, and of the
    teacher without guidance."""
    generation, taught = two.guided.generation, []
    x_0 = generation.latents(two.teacher, range(count))
    noise = torch.stack([torch.randn(x.shape, generator=generator(seed, i)) for i, x in enumerate(x_0)])
    with generation.policy_of(two.teacher) as policy:
        cond = policy.encode_condition(*generation.conditions.batch(0, count))
        for level in progress(LEVELS, "noise levels"):
            t = torch.full((count,), level)
            x_t = noised(x_0, noise, t).to(cond.image)
            taught.append((x_t, t, generation.guidance(policy, x_t, t, cond), policy(x_t, t, cond)))
    rows = []
    with generation.policy_of(two.student) as policy:
        for x_t, t, guided, unguided in taught:
            student, before = (float((v - guided).square().mean()) for v in (policy(x_t, t, cond), unguided))
            rows.append({"t": float(t[0]), "student": student, "unguided": before, "absorbed": 1 - student / before})
    return rows


def likeness(videos: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) PSNR in dB and SSIM of videos (B, F, 3, H, W) uint8 against others, frames 1 to F − 1."""
    a, b = (x[:, 1:].float() for x in (videos, others))
    psnr = peak_signal_noise_ratio(a, b, data_range=255.0, reduction="none", dim=(1, 2, 3, 4))
    ssim = structural_similarity_index_measure(a.flatten(0, 1), b.flatten(0, 1), data_range=255.0, reduction="none")
    return psnr, ssim.unflatten(0, a.shape[:2]).mean(1)


def similarity(two: Two, batch_size: int) -> dict[str, dict]:
    """PSNR and SSIM to the guided teacher's videos, of the student's and the unguided teacher's."""
    found = {name: ([], []) for name in ("student", "unguided")}
    count = len(two.plain.generation.conditions)
    for start in progress(range(0, count, batch_size), "decoding"):
        places = list(range(start, min(start + batch_size, count)))
        target = two.guided.generation.videos(two.teacher, places)
        for name, arm in (("student", two.student), ("unguided", two.teacher)):
            for values, value in zip(found[name], likeness(two.plain.generation.videos(arm, places), target)):
                values.append(value)
    return {
        name: {
            "psnr": asdict(mean_interval(torch.cat(psnr).tolist(), 0)),
            "ssim": asdict(mean_interval(torch.cat(ssim).tolist(), -1, 1)),
        }
        for name, (psnr, ssim) in found.items()
    }


def speed(two: Two, batch_size: int, repeats: int) -> dict:
    """Seconds to sample a batch with the teacher's guidance and with none, alternating, and their ratio."""
    generation, rows = two.guided.generation, []
    with generation.policy_of(two.student) as policy:
        cond, noise = (
            policy.encode_condition(*generation.conditions.batch(0, batch_size)),
            initial_noise(policy, range(batch_size)),
        )
        for _ in progress(range(repeats + 1), "timing"):
            row = {}
            for name, guidance in (("guided", generation.guidance), ("single", NoGuidance())):
                began = clock()
                generate(policy, guidance, cond, noise)
                row[name] = clock() - began
            rows.append(row)
    times = pd.DataFrame(rows[1:])  # the first one warms up
    return {
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "ratio": asdict(bootstrap_median(times.guided / times.single)),
        "guided_seconds": asdict(bootstrap_median(times.guided)),
        "single_seconds": asdict(bootstrap_median(times.single)),
    }


def report(two: Two, count: int, repeats: int) -> dict:
    """Everything that is measured, as plain numbers. count: conditions of the MSE. repeats: of the timing."""
    cfg = two.plain.cfg
    results = {
        "teacher": two.guided.score(two.teacher),
        "unguided": two.plain.score(two.teacher),
        "student": two.plain.score(two.student),
    }
    return {
        "student": str(two.student.folder),
        "teacher": str(two.teacher.folder),
        "guidance": two.guidance,
        "n": len(two.plain.generation.conditions),
        "metrics": {name: result["metrics"] for name, result in results.items()},
        "likeness": similarity(two, cfg.batch_size),
        "mse": errors(two, min(count, cfg.conditions.count), cfg.seed),
        "speed": speed(two, min(TIMED, cfg.batch_size), repeats),
    }


def tables(found: dict) -> str:
    names = list(found["metrics"])
    lines = ["| metric (95 % interval) | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for key in found["metrics"]["student"]:
        lines.append(f"| {key} | " + " | ".join(shown(found["metrics"][name][key]) for name in names) + " |")
    lines += ["", "| to the guided teacher's video | student | unguided |", "|---|---|---|"]
    student, unguided = found["likeness"]["student"], found["likeness"]["unguided"]
    lines += [f"| {key} | {shown(student[key])} | {shown(unguided[key])} |" for key in ("psnr", "ssim")]
    lines += ["", "| t | MSE of the student | MSE unguided | absorbed |", "|---|---|---|---|"]
    lines += ["| {t:.0f} | {student:.2e} | {unguided:.2e} | {absorbed:.1%} |".format(**row) for row in found["mse"]]
    return "\n".join(lines)


def markdown(found: dict) -> str:
    strengths = ", ".join(f"{key} {value}" for key, value in found["guidance"].items() if key != "_target_")
    head = f"# {found['student']} against {found['teacher']} under guidance, {found['n']} held-out videos"
    speed = found["speed"]
    said = (
        f"Sampling {speed['batch_size']} videos, {speed['threads']} thread(s): guided "
        f"{shown(speed['guided_seconds'])} s, "
        f"one forward {shown(speed['single_seconds'])} s, ratio {shown(speed['ratio'])}."
    )
    return "\n".join([head, "", strengths, "", tables(found), "", said, NOTES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="*", help="of conf/evaluation/evaluate.yaml, such as conditions.count=64 trainer.threads=1"
    )
    parser.add_argument("--run", default="curriculum/seed_0", help="folder in outputs/")
    parser.add_argument("--student", default="distill", help="folder of the stage=distill run in it")
    parser.add_argument("--count", type=int, default=64, help="conditions of the MSE")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing")
    parser.add_argument("--docs", action="store_true", help="also put the tables into docs/*.md")
    args = parser.parse_args()
    try:
        two = prepare(args.run, args.student, args.overrides)
    except ValueError as error:
        raise SystemExit(f"student: {error}") from error
    if two.plain.cfg.trainer.threads:
        torch.set_num_threads(two.plain.cfg.trainer.threads)
    found = report(two, args.count, args.repeats)
    path, text = two.student.folder / "eval" / "distillation.md", markdown(found)
    write_json(path.with_suffix(".json"), found)
    write_text(path, text)
    print(f"{text}\nreport: {path}")
    if args.docs:
        fill(DOCS, {"student.tables": tables(found)})


if __name__ == "__main__":
    main()
