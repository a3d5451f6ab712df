"""Tables of committed results in the README and the docs: `python -m recbole_cora.compare.pages` rewrites them.

A table stands between two comments, the first of which names its result folder and columns:

    <!-- table results/quick: AUC, UAUC, seconds -->
    <!-- /table -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_cora.compare.rows import Row
from recbole_cora.compare.table import COLUMNS, Ties, table
from recbole_cora.errors import SettingError
from recbole_cora.files import write_whole
from recbole_cora.summary import negatives_note

_BLOCK = re.compile(
    r"(?P<start><!-- table (?P<folder>\S+): (?P<columns>[^\n]*?) -->\n).*?(?P<end><!-- /table -->)", re.DOTALL
)


def pages(root: Path) -> list[Path]:
    """Return the pages of a checkout that may hold tables."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def with_tables(page: Path, root: Path) -> str:
    """Return the text of a page with its tables made from the reports in `root`.

    Raises:
        SettingError: a comment names a column that does not exist, or a folder without a report.
    """

    def fill(block: re.Match[str]) -> str:
        headings = [heading.strip() for heading in block["columns"].split(",")]
        unknown_headings = [heading for heading in headings if heading not in COLUMNS]
        if unknown_headings:
            raise SettingError(f"{page.name}: no column '{unknown_headings[0]}'; expected some of {', '.join(COLUMNS)}")
        report = root / block["folder"] / "report.json"
        if not report.is_file():
            raise SettingError(f"{page.name}: {report} is missing; run recbole-cora compare --out={block['folder']}")
        content = json.loads(report.read_text(encoding="utf-8"))
        rows = [Row.from_json(entry) for entry in content["systems"]]
        ties = Ties.from_json(content.get("statistics", {}))
        lines = ["", *table([row for row in rows if row.seeds], headings, ties), "", caption(content, rows), ""]
        return block["start"] + "\n".join(lines) + block["end"]

    return _BLOCK.sub(fill, page.read_text(encoding="utf-8"))


def caption(content: Mapping[str, Any], rows: list[Row]) -> str:
    """Return the sentences below a table: rows, seeds, LLM, commit, machine, and what is missing."""
    counts = " / ".join(f"{count:,}" for count in content["rows"].values())
    llms = sorted({row.cost.llm for row in rows if row.cost is not None and row.cost.llm})
    seeds = ", ".join(map(str, content["seeds"]))
    sentences = [
        f"{content['dataset']}: {counts} rows (train / valid / test), UAUC over {content['uauc_users']['test']} test "
        f"users; "
        + (f"mean ± standard deviation over seeds {seeds}" if len(content["seeds"]) > 1 else f"seed {seeds}"),
        f"LLM: {', '.join(llms) or 'none'}",
    ]
    if content.get("negatives"):
        sentences.append(negatives_note(content["negatives"]).removesuffix("."))
    for name, values in (("Commit", content.get("commits", [])), ("Machine", content.get("machines", []))):
        known_values = [value for value in values if value]
        if known_values:
            sentences.append(f"{name}: {', '.join(known_values)}" + (", others not recorded" if None in values else ""))
    missing_runs = [f"{row.system} (seed {', '.join(map(str, row.missing))})" for row in rows if row.missing]
    if missing_runs:
        sentences.append(f"Not run yet: {', '.join(missing_runs)}")
    return ". ".join(sentences) + "."


def main() -> None:
    """Rewrite the pages of this checkout that differ."""
    root = Path(__file__).parents[2]
    for page in pages(root):
        text = with_tables(page, root)
        if text != page.read_text(encoding="utf-8"):
            write_whole(page, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))  # type: ignore[misc]
            print(page)


if __name__ == "__main__":
    main()
