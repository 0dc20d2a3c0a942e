"""Checks the user's data without training, and shows what the model will see of it:

    python -m apo.data.check data=pairs data.path=pairs.jsonl model=wan22_i2v_a14b

The rest are train.py's overrides; data= is pairs, prompts, anchors or rankings. Every file of every row is looked at,
all bad rows are listed. Takes no model: of model=, its size and rate count.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apo.quiet  # noqa: F401  isort: skip
from apo.data.cells import ImageFile, VideoFile
from apo.data.command import built, composed
from apo.data.manifest import Row
from apo.data.pairs import UserRows
from apo.data.rankings import UserRankings
from apo.data.tables import place
from apo.errors import UserError, one_line
from apo.io.framing import Frame, draw, image_frame, video_frame
from apo.io.video import Spec
from apo.parts import Setting
from apo.terminal import progress

SHOWN = 6  # sizes in the picture and in a line


def check(overrides: list[str], picture: Path | None) -> Path:
    """Prints what there is to say of a manifest; returns where the picture lies. UserError for whatever is wrong with
    it.
    """
    cfg = composed(overrides)
    spec, data = built(cfg.model).spec, built(cfg.data)
    if not isinstance(data, UserRows | UserRankings):
        kinds = "pairs, prompts, anchors or rankings"
        raise UserError(f"data={type(data).__name__} has no manifest: give data={kinds}, and data.path=MANIFEST")
    data.check(Setting(spec))
    rows = data.manifest().rows
    frames = look(rows)
    print(f"{data.path}: {said_of_rows(rows)}\n{said_of_files(frames, spec)}")
    chosen = one_of_each_size(frames)
    lines = {path: row.line for row in reversed(rows) for path in files(row)}
    captions = [
        f"{place(data.path, lines[f.path])}, {f.path.name}: {f.size[0]} x {f.size[1]}, {f.share(spec):.0%} kept"
        for f in chosen
    ]
    picture = picture or Path("outputs") / "check" / f"{data.path.stem}.png"
    draw(picture, chosen, captions, spec)
    return picture


def files(row: Row) -> list[Path]:
    return [path for kind in (VideoFile, ImageFile) for path in row.files(kind).values()]


def look(rows: Sequence[Row]) -> list[Frame]:
    """Of each file."""
    images = {path for row in rows for path in row.files(ImageFile).values()}
    paths = list(dict.fromkeys(path for row in rows for path in files(row)))
    with ThreadPoolExecutor(4) as pool:
        seen = pool.map(lambda path: image_frame(path) if path in images else video_frame(path), paths)
        return list(progress(seen, total=len(paths), desc="looking at files", delay=2))


def said_of_rows(rows: Sequence[Row]) -> str:
    said = [f"{len(rows)} rows of {len({row.prompt for row in rows})} prompts, all usable"]
    for name in ("label", "domain"):
        found = Counter(row.texts().get(name) for row in rows)
        if set(found) - {None, ""}:
            said.append(
                f"{name}: " + ", ".join(f"{value or 'none'} {count}" for value, count in found.most_common(SHOWN))
            )
    return "; ".join(said)


def said_of_files(frames: Sequence[Frame], spec: Spec) -> str:
    seconds = sorted(frame.seconds for frame in frames if frame.seconds)
    said = []
    if seconds:
        said.append(
            f"{len(seconds)} videos of {seconds[0]:.1f} to {seconds[-1]:.1f} s, {sum(seconds) / 60:.1f} minutes in "
            "all; the model takes "
            f"{spec.frames / spec.fps:.1f} s of each ({spec.frames} frames at {spec.fps:g} fps)"
        )
    for (width, height), count in Counter(frame.size for frame in frames).most_common(SHOWN):
        share = next(frame.share(spec) for frame in frames if frame.size == (width, height))
        how = f"model.spec.fit={spec.fit} to {spec.width} x {spec.height} keeps {share:.0%} of the picture"
        said.append(f"{count} file{'s' * (count > 1)} of {width} x {height}: {how}")
    return "\n".join(said)


def one_of_each_size(frames: Sequence[Frame]) -> list[Frame]:
    """The commonest sizes first."""
    of_size = {frame.size: frame for frame in reversed(frames)}
    return [of_size[size] for size, _ in Counter(frame.size for frame in frames).most_common(SHOWN)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="where it is to lie; outputs/check/<manifest>.png if not given")
    given, overrides = parser.parse_known_args()
    with one_line("check"):
        print(f"what the model will see of them: {check(overrides, given.picture)}")


if __name__ == "__main__":
    main()
