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


def compared(ours: list[dict], theirs: list[dict]) -> dict:
    """win, tie and loss on the same conditions, with the win rate's interval: of clean against distorted, and of
    followed against not under `instruction_following`, as far as the evaluator has such verdicts."""
    found = {}
    if ours and "distorted" in ours[0]:
        found |= outcomes([not row["distorted"] for row in ours], [not row["distorted"] for row in theirs])
    if ours and "followed" in ours[0]:
        found["instruction_following"] = outcomes(
            [row["followed"] for row in ours], [row["followed"] for row in theirs]
        )
    return found


def outcomes(ours: list[bool], theirs: list[bool]) -> dict:
    from apo.evaluators.win_rate import WinRate  # torchmetrics takes seconds

    rate = WinRate()
    rate.update(torch.tensor(ours).float(), torch.tensor(theirs).float())
    result = rate.compute()
    return {key: result[key] for key in ("win", "tie", "loss")} | {"win_rate": plain(asdict(result["win_rate"]))}


def write(folder: Path, report: dict, against: dict | None = None) -> str:
    """report.json and report.md; returns the latter's text."""
    write_json(folder / "report.json", {key: value for key, value in report.items() if key != "rows"})
    text = markdown(report, against)
    Written(folder).put("report.md", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return text


def markdown(report: dict, against: dict | None) -> str:
    """An arm's report, beside the one that it is compared with."""
    columns = ([against] if against else []) + [report]
    lines = [f"# {report['run']}: {report['stage']}, {report['n']} held-out videos", ""]
    if report["metrics"]:
        lines += table(["metric (95 % interval)", *(column["stage"] for column in columns)])
    lines += [row([name, *(shown(column["metrics"][name]) for column in columns)]) for name in report["metrics"]]
    for cause in sorted({video["cause"] for column in columns for video in column["rows"] if video.get("cause")}):
        lines.append(
            row([cause, *(str(sum(video["cause"] == cause for video in column["rows"])) for column in columns)])
        )
    if "against" in report:
        lines += [
            "",
            f"Against {report['against']['run']}: {'; '.join(verdicts(report['against'])) or 'no verdicts to compare'}.",
        ]
    return "\n".join(lines)


def verdicts(against: dict) -> list[str]:
    """Sentences of what `compared` found."""
    said = "{win} won, {tie} tied, {loss} lost"
    clean = [said.format(**against) + " (clean beats distorted)"] if "win" in against else []
    following = against.get("instruction_following")
    return clean + ([f"instruction following: {said.format(**following)}"] if following else [])


def reported(folder: Path, result: dict) -> bool:
    """Whether there is a report of this result already, perhaps with a comparison of its own."""
    saved = read(folder / "report.json")
    return (
        saved is not None and saved["metrics"] == result["metrics"] and saved.get("key", result["key"]) == result["key"]
    )


def joint(rows: Sequence[dict], against: str | None) -> str:
    """Arms x metrics as Markdown: each arm's intervals, and its win/tie/loss on the conditions of the arm that all are compared with."""
    metrics, kinds = list(rows[0]["metrics"]), list(dict.fromkeys(kind for report in rows for kind in versus(report)))
    lines = table(["arm", *metrics, *(f"{kind}: win/tie/loss" for kind in kinds), "videos"])
    for report in rows:
        won = ["{win}/{tie}/{loss}".format(**versus(report)[kind]) if kind in versus(report) else "" for kind in kinds]
        lines.append(
            row([report["stage"], *(shown(report["metrics"][name]) for name in metrics), *won, str(report["n"])])
        )
    compared_with = "" if against is None else f"; win/tie/loss against {against}, on the same conditions and noise"
    return "\n".join([f"# {rows[-1]['run']}", "", *lines, "", f"In parentheses: 95 % intervals{compared_with}."])


def versus(report: dict) -> dict[str, dict]:
    """A report's win, tie and loss by kind."""
    found = report.get("against", {})
    kinds = {"clean": found if "win" in found else None, "following": found.get("instruction_following")}
    return {kind: counts for kind, counts in kinds.items() if counts}


def joint_csv(rows: Sequence[dict]) -> str:
    """The same, a number a cell."""
    lines = []
    for report in rows:
        line = {"arm": report["stage"], "videos": report["n"]}
        for name, metric in report["metrics"].items():
            line |= {name: metric["value"], f"{name}_low": metric["low"], f"{name}_high": metric["high"]}
        for kind, counts in versus(report).items():
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
