"""The hyperparameter search on validation conditions, from its run folders: `python -m apo.reports.search --run search`."""

import argparse
import json
import re
from pathlib import Path

from apo.evaluators.intervals import wilson


def collect(run: Path) -> list[dict]:
    """A row per evaluated folder `ablation_<arm>-<setting>-...`, by arm and then by distortion rate."""
    rows = []
    for report in sorted(run.glob("ablation_*/eval_validation/report.json")):
        arm, _, settings = report.parts[-3].removeprefix("ablation_").partition("-")
        result = json.loads(report.read_text())
        metrics = {key: value["value"] for key, value in result["metrics"].items()}
        rows.append({"arm": arm, "settings": settings, "n": result["n"], "against": result.get("against", {}), **metrics})
    return sorted(rows, key=lambda row: (row["arm"], row["distortion_rate"], -row["instruction_following"]))


def table(rows: list[dict]) -> str:
    """Markdown; the first row of each arm is its choice."""
    lines = ["| arm | settings | distorted | dynamic degree | instruction following | win/tie/loss |", "|---|---|---|---|---|---|"]
    for row in rows:
        interval = wilson(round(row["distortion_rate"] * row["n"]), row["n"])
        against = "/".join(str(row["against"].get(key, "")) for key in ("win", "tie", "loss"))
        settings = re.sub(r"-?seed_\d+", "", row["settings"]).replace("optimizer.", "").replace("_", " ")
        lines.append(
            f"| {row['arm']} | {settings} | {interval.value:.1%} ({interval.low:.1%}-{interval.high:.1%}) | "
            f"{row['dynamic_degree']:.3f} | {row['instruction_following']:.1%} | {against} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="search", help="folder in outputs/")
    found = collect(Path("outputs") / parser.parse_args().run)
    print(table(found) if found else "no evaluated runs: python evaluate.py -m run=search stage=... conditions.split=validation")
