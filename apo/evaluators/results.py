"""What evaluate.py leaves of an arm, rows.json and report.json, report.md of it, and one table of several arms."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from apo.errors import UserError
from apo.interfaces import Criterion
from apo.io.files import write_json
from apo.io.written import Written

HEAD = {"run": str, "stage": str, "n": int, "metrics": dict}  # of either file
ENDS = ("value", "low", "high")


def read(path: Path) -> dict | None:
    """The content of rows.json or report.json; None if there is none or it is no whole one."""
    found = parsed(path)
    return (
        found
        if isinstance(found, dict) and is_result(found) and ("rows" in found or path.name != "rows.json")
        else None
    )


def require_ours(path: Path) -> None:
    """UserError if another program's file or a folder has that name: it is not ours to replace."""
    found = parsed(path)
    foreign = found is not None and not (isinstance(found, dict) and HEAD.keys() & found.keys())
    if path.is_dir() or foreign:
        raise UserError(f"{path} is not one of evaluate.py's: move it away, or give another results=NAME")


def videos(path: Path) -> list[dict]:
    """The rows of a rows.json, for reports; UserError if it is damaged."""
    found = parsed(path)
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is damaged: run its evaluate.py command again, which makes it anew")
    return rows


def parsed(path: Path):
    """None also for a file that is not there or not JSON; NaN and Infinity are not."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        return None


def is_result(found: dict) -> bool:
    """Whether a file has what the others rely on."""
    rows, metrics = found.get("rows", []), found.get("metrics")
    return (
        all(isinstance(found.get(key), kind) for key, kind in HEAD.items())
        and all(
            isinstance(metric, dict) and all(is_number(metric.get(end)) for end in ENDS) for metric in metrics.values()
        )
        and isinstance(rows, list)
        and all(isinstance(row, dict) and isinstance(row.get("prompt"), str) for row in rows)
        and len(rows) in (0, found["n"])
    )


def is_number(value) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def refuse(constant: str) -> None:
    raise ValueError(constant)


def plain(value):
    """The same in JSON's own types: what is not finite, such as the end of an interval of nothing, is null."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compared(ours: list[dict], theirs: list[dict], criteria: Sequence[Criterion]) -> dict:
    """win, tie and loss on the same conditions, with the win rate's interval: by the first criterion, and under the
    names of their metrics by the others.
    """
    found = {}
    for criterion in criteria:
        counts = outcomes(*([criterion.wins(row) for row in rows] for rows in (ours, theirs)))
        found |= {criterion.metric: counts} if found else counts
    return found


def outcomes(ours: list[bool], theirs: list[bool]) -> dict:
    from apo.evaluators.win_rate import WinRate  # torchmetrics takes seconds

    rate = WinRate()
    rate.update(torch.tensor(ours).float(), torch.tensor(theirs).float())
    result = rate.compute()
    return {key: result[key] for key in ("win", "tie", "loss")} | {"win_rate": plain(asdict(result["win_rate"]))}


def write(folder: Path, report: dict, criteria: Sequence[Criterion], against: dict | None = None) -> str:
    """report.json and report.md; returns the latter's text."""
    write_json(folder / "report.json", {key: value for key, value in report.items() if key != "rows"})
    text = markdown(report, criteria, against)
    Written(folder).put("report.md", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return text


def markdown(report: dict, criteria: Sequence[Criterion], against: dict | None) -> str:
    """An arm's report, beside the one that it is compared with."""
    columns = ([against] if against else []) + [report]
    lines = [f"# {report['run']}: {report['stage']}, {report['n']} held-out videos", ""]
    if report["metrics"]:
        lines += table(["metric (95 % interval)", *(column["stage"] for column in columns)])
    lines += [row([name, *(shown(column["metrics"][name]) for column in columns)]) for name in report["metrics"]]
    for criterion in criteria:
        lines += [row(cells) for cells in reasons([column["rows"] for column in columns], criterion)]
    if "against" in report:
        said = "; ".join(outcome_texts(report["against"], criteria)) or "no verdicts to compare"
        lines += ["", f"Against {report['against']['run']}: {said}."]
    return "\n".join(lines)


def reasons(videos: Sequence[list[dict]], criterion: Criterion) -> list[list[str]]:
    """Each reason why videos are bad, and how many of each arm's are bad for it."""
    if criterion.reason is None:
        return []
    given = [[video[criterion.reason] for video in of_arm] for of_arm in videos]
    every = sorted({reason for of_arm in given for reason in of_arm if reason})
    return [[reason, *(str(of_arm.count(reason)) for of_arm in given)] for reason in every]


def outcome_texts(against: dict, criteria: Sequence[Criterion]) -> list[str]:
    """What `compared` found, criterion by criterion."""
    texts = []
    for i, (criterion, counts) in enumerate(zip(criteria, outcomes_of(against, criteria))):
        text = "{win} won, {tie} tied, {loss} lost".format(**counts)
        name = criterion.metric.replace("_", " ")
        texts.append(f"{name}: {text}" if i else f"{text} ({criterion.good} beats {criterion.bad})")
    return texts


def outcomes_of(against: dict, criteria: Sequence[Criterion]) -> list[dict]:
    """win, tie and loss by each criterion, of what `compared` found."""
    return [against if i == 0 else against[criterion.metric] for i, criterion in enumerate(criteria)]


def reported(folder: Path, result: dict) -> bool:
    """Whether there is a report of this result already, perhaps with a comparison of its own."""
    saved = read(folder / "report.json")
    return (
        saved is not None and saved["metrics"] == result["metrics"] and saved.get("key", result["key"]) == result["key"]
    )


def joint(rows: Sequence[dict], criteria: Sequence[Criterion], against: str | None) -> str:
    """Arms x metrics as Markdown: each arm's intervals, and its win/tie/loss on the conditions of the arm that all are
    compared with.
    """
    metrics, found = list(rows[0]["metrics"]), [versus(report, criteria) for report in rows]
    kinds = [criterion.good for criterion in criteria if any(found)]
    lines = table(["arm", *metrics, *(f"{kind}: win/tie/loss" for kind in kinds), "videos"])
    for report, counts in zip(rows, found):
        won = ["{win}/{tie}/{loss}".format(**counts[kind]) if counts else "" for kind in kinds]
        lines.append(
            row([report["stage"], *(shown(report["metrics"][name]) for name in metrics), *won, str(report["n"])])
        )
    compared_with = "" if against is None else f"; win/tie/loss against {against}, on the same conditions and noise"
    return "\n".join([f"# {rows[-1]['run']}", "", *lines, "", f"In parentheses: 95 % intervals{compared_with}."])


def versus(report: dict, criteria: Sequence[Criterion]) -> dict[str, dict]:
    """A report's win, tie and loss by what the better videos are called; empty where it was compared with none."""
    found = outcomes_of(report["against"], criteria) if "against" in report else []
    return {criterion.good: counts for criterion, counts in zip(criteria, found)}


def joint_csv(rows: Sequence[dict], criteria: Sequence[Criterion]) -> str:
    """The same, a number a cell."""
    lines = []
    for report in rows:
        line = {"arm": report["stage"], "videos": report["n"]}
        for name, metric in report["metrics"].items():
            line |= {name: metric["value"], f"{name}_low": metric["low"], f"{name}_high": metric["high"]}
        for kind, counts in versus(report, criteria).items():
            line |= {f"{kind}_{outcome}": counts[outcome] for outcome in ("win", "tie", "loss")}
        lines.append(line)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def table(head: list[str]) -> list[str]:
    return [row(head), "|---" * len(head) + "|"]


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(interval: dict) -> str:
    return "{} ({})".format(*numbers(interval))


def numbers(interval: dict) -> tuple[str, str]:
    """Value and interval."""
    value, low, high = ("–" if interval[end] is None else f"{interval[end]:.3f}" for end in ENDS)
    return value, f"{low}-{high}"
