"""How well a ranker agrees with the oracle on the world's held-out pairs (Appendix C.3):

python -m apo.reports.ranker ranker=by_domain
python -m apo.reports.ranker --name base ranker=qwen3_vl
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from apo.config.overrides import composed
from apo.evaluators.ranking import RankingMetrics
from apo.interfaces import Ranker
from apo.intervals import Interval, shown, wilson
from apo.rankers.answer import swapped
from apo.terminal import progress
from apo.world.rankings import WorldRankingDataset

SEVERITY = (0.05, 0.15, 0.3, 0.6, 1.01)  # edges of the margins in severity, for labels 1 and 2
SPEED = (0.25, 0.5, 1.0, 2.01)  # px/frame, for labels 3 and 4
PAPER = (
    "The paper: accuracy 91.8 % and 94.2 % on two sets of human-centric videos, 78.5 % on the others (Appendix C.3)."
)


def set_swapping(node, value: bool) -> None:
    """Sets every swap_averaging below a config node."""
    for key in list(node):
        if key == "swap_averaging":
            node[key] = value
        elif OmegaConf.is_dict(node[key]):
            set_swapping(node[key], value)


def labels(ranker: Ranker, data: WorldRankingDataset, batch_size: int, title: str) -> tuple[Tensor, Tensor]:
    """(n,) labels of the pairs as they are, and of the pairs exchanged as given for that order."""
    given, exchanged = [], []
    for start in progress(range(0, len(data), batch_size), title):
        places = list(range(start, min(start + batch_size, len(data))))
        ranking, cond = data.collate([data[i] for i in places]), data.condition(places)
        given.append(ranker(ranking.first, ranking.second, cond).label)
        exchanged.append(ranker(ranking.second, ranking.first, cond).label)
    return torch.cat(given), torch.cat(exchanged)


def position(given: Tensor, exchanged: Tensor) -> dict[str, Interval]:
    """inconsistent: pairs whose verdict depends on the order. first: verdicts, over both orders, for
    the first video.
    """
    first = int((given % 2 == 1).sum() + (exchanged % 2 == 1).sum())
    return {
        "inconsistent": wilson(int((given != swapped(exchanged)).sum()), len(given)),
        "first": wilson(first, 2 * len(given)),
    }


def share(hits: Tensor, chosen: list[bool]) -> dict:
    """The interval of `hits` (n,) among the chosen, with their number."""
    picked = hits[torch.tensor(chosen)]
    return {"n": len(picked), **asdict(wilson(int(picked.sum()), len(picked)))}


def by_margin(same_winner: Tensor, rows: list[dict]) -> dict[str, dict]:
    """Agreement on the winner by how much the videos differ, in severity or, where that is similar, in speed."""
    found = {}
    for name, edges, of_labels in (("severity", SEVERITY, (1, 2)), ("speed", SPEED, (3, 4))):
        for low, high in zip(edges, edges[1:]):
            chosen = [
                row["label"] in of_labels and low <= abs(row[name][0] - row[name][1]) + 1e-6 < high for row in rows
            ]
            found[f"{name} {low:g} to {min(high, 2) if name == 'speed' else min(high, 1):g}"] = share(
                same_winner, chosen
            )
    return found


def report(cfg: DictConfig, count: int, batch_size: int) -> dict:
    """Everything that is measured, as plain numbers."""
    data = instantiate(cfg.data).dataset("test", count)
    places, rows = [place for place, _ in data.rows], [row for _, row in data.rows]
    results = {}
    for averaging in (False, True):
        set_swapping(cfg.ranker, averaging)
        title = "both orders averaged" if averaging else "one order"
        given, exchanged = labels(instantiate(cfg.ranker), data, batch_size, title)
        results[title] = {name: asdict(value) for name, value in position(given, exchanged).items()}
    wanted = torch.tensor([row["label"] for row in rows])
    metrics = RankingMetrics(data.domains)
    metrics.update(given, wanted, data.domains)
    same_winner = given % 2 == wanted % 2
    still = [row["same_frames"] for row in rows]
    return {
        "ranker": OmegaConf.to_container(cfg.ranker, resolve=True),
        "n": len(rows),
        "scores": {domain: asdict(found) for domain, found in metrics.compute().items()},
        "position": results,
        "slowed against its original": {"winner": share(same_winner, still), "label": share(given == wanted, still)},
        "source": {
            name: share(given == wanted, [p.source == name for p in places]) for name in ("generated", "rendered")
        },
        "margin": by_margin(same_winner, rows),
    }


def percent(interval: dict) -> str:
    return shown(Interval(*(interval[key] for key in ("value", "low", "high"))), 1, 100)


def markdown(name: str, found: dict) -> str:
    lines = [f"# {name}: {found['n']} held-out pairs, % (95 % interval)", "", PAPER, ""]
    lines += ["| domain | label | winner | recall 1 | recall 2 | recall 3 | recall 4 |", "|---" * 7 + "|"]
    for domain, scores in found["scores"].items():
        cells = [scores["accuracy"], scores["winner"], *scores["recall"].values()]
        lines.append(f"| {domain} | " + " | ".join(percent(cell) for cell in cells) + " |")
    lines += ["", "| position | verdict depends on the order | the first video wins |", "|---|---|---|"]
    lines += [
        f"| {title} | {percent(cells['inconsistent'])} | {percent(cells['first'])} |"
        for title, cells in found["position"].items()
    ]
    lines += ["", "| pairs | n | agreement |", "|---|---|---|"]
    still = found["slowed against its original"]
    table = {
        "slowed against its original, winner": still["winner"],
        "slowed against its original, label": still["label"],
    }
    table |= {f"{source}, label": cell for source, cell in found["source"].items()}
    table |= {f"{margin}, winner": cell for margin, cell in found["margin"].items()}
    return "\n".join([*lines, *(f"| {title} | {cell['n']} | {percent(cell)} |" for title, cell in table.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of conf/train.yaml, such as ranker=by_domain")
    parser.add_argument("--name", default="report", help="of the files in outputs/ranker_world")
    parser.add_argument("--count", type=int, default=800, help="pairs")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cfg = composed("train", ["data=world_rankings", *args.overrides])
    found = report(cfg, args.count, args.batch_size)
    folder = Path("outputs/ranker_world")
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(args.name, found)
    (folder / f"{args.name}.json").write_text(json.dumps(found, indent=1))
    (folder / f"{args.name}.md").write_text(text + "\n")
    print(f"{text}\n\nreport: {folder / args.name}.md")


if __name__ == "__main__":
    main()
