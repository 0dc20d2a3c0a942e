"""Tables of docs/*.md that commands fill, between `<!-- table NAME -->` and `<!-- end of table -->`."""

import re
from pathlib import Path

from apo.io.files import write_text
from apo.places import ROOT

DOCS = ROOT / "docs"
BLOCK = r"(<!-- table {name} -->\n\n)(.*?)(\n\n<!-- end of table -->)"


def fill(docs: Path, found: dict[str, str]) -> list[Path]:
    """Replaces what stands between the marks of each table's name; returns the files that changed."""
    changed = []
    for path in sorted(docs.glob("*.md")):
        text = before = path.read_text(encoding="utf-8")
        for name, table in found.items():
            pattern = BLOCK.replace("{name}", re.escape(name))
            text = re.sub(pattern, lambda block, new=table: f"{block[1]}{new}{block[3]}", text, flags=re.S)
        if text != before:
            write_text(path, text)
            changed.append(path)
    return changed
