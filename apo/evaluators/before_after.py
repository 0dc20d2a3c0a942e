"""Arms side by side on the same conditions: contact_sheet.png and videos/*.mp4 of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from apo.interfaces import Criterion
from apo.io.pictures import Caption, contact_sheet, looped, side_by_side
from apo.io.video import write_video
from apo.io.written import Written


def pick(results: Sequence[dict], column: str | None, count: int) -> list[int]:
    """The first conditions on which a column of the arms' rows differs, better or worse, and then the first others."""
    places = range(len(results[0]["rows"]))
    differ = [i for i in places if column and len({result["rows"][i][column] for result in results}) > 1]
    return [*differ, *(i for i in places if i not in set(differ))][:count]


def verdict(row: dict, criterion: Criterion | None) -> str:
    """'' where nothing is judged."""
    if criterion is None:
        return ""
    if criterion.wins(row):
        return criterion.good
    return criterion.bad if criterion.reason is None else f"{criterion.bad}: {row[criterion.reason]}"


def colour(row: dict, criterion: Criterion | None) -> str:
    return "black" if criterion is None or criterion.wins(row) else "firebrick"


def draw(
    folder: Path,
    places: Sequence[int],
    arms: Sequence[str],
    rows: Sequence[list[dict]],
    videos: Sequence[Tensor],
    fps: float,
    criterion: Criterion | None = None,
) -> None:
    """contact_sheet.png and videos/*.mp4, all arms side by side, captions red where a video is bad; mp4s of an earlier
    evaluation go.

    places: the conditions to show. rows: of each arm, of all conditions. videos: (len(places), F, 3, H, W) uint8 of
    each arm.
    """
    written = Written(folder)
    written.keep("videos", [name(i) for i in places])
    shown, captions, colours = [], [], []
    for index, i in enumerate(places):
        measured, beside = [of_arm[i] for of_arm in rows], [of_arm[index] for of_arm in videos]
        labels = [
            [Caption(arm, bold=True), Caption(verdict(row, criterion), colour(row, criterion))]
            for arm, row in zip(arms, measured)
        ]
        video = looped(side_by_side(beside, f"{i:03d} {measured[0]['prompt']}", labels), fps)
        written.put(name(i), lambda path, video=video: write_video(path, video, fps))
        shown += beside
        captions += [
            f"{i:03d} {arm}: {row['prompt']}{in_brackets(verdict(row, criterion))}" for arm, row in zip(arms, measured)
        ]
        colours += [colour(row, criterion) for row in measured]
    written.put("contact_sheet.png", lambda path: contact_sheet(path, shown, captions, colours))


def in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def name(place: int) -> str:
    return f"videos/{place:03d}.mp4"
