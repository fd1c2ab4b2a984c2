"""What the documents say of the tree is true: links, and the arrows of the drawing."""

import re
from pathlib import Path

import pytest

from tests.test_architecture import ARROWS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCHMARKS.md")
DOCUMENTS += tuple(f"docs/benchmarks/{p.name}" for p in (ROOT / "docs" / "benchmarks").glob("*.md"))
LINKS = [
    (name, link)
    for name in DOCUMENTS
    for link in sorted(set(re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text())))
    if not link.startswith("http")
]
FOLDERS = {  # name in the drawing -> folders
    "core": ["configs/core"],
    "tables": ["analysis/records", "analysis/tables", "analysis/laws"],
}


def folders(name: str) -> list[str]:
    tops = (name, f"train/{name}", f"analysis/{name}")
    return FOLDERS.get(name) or [folder for folder in tops if folder in ARROWS]


def allows(source: str, target: str) -> bool:
    row = (*ARROWS[source], source)
    return any(target == folder or target.startswith(f"{folder}/") for folder in row)


@pytest.mark.parametrize(("document", "link"), LINKS)
def test_links_exist(document, link):
    assert ((ROOT / document).parent / link).exists()


def test_arrows_of_the_drawing_are_those_of_the_import_test():
    _, drawing = re.findall(r"```mermaid\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.S)
    arrows = re.findall(r'^ *(\w+)(?:\[".*?"\])? -->(?:\|.*?\|)? (\w+)', drawing, re.M)
    assert len(arrows) >= 18
    for start, end in arrows:
        for source in folders(start):
            assert any(allows(source, target) for target in folders(end)), f"{start} --> {end}"
    drawn = {folder for arrow in arrows for name in arrow for folder in folders(name)}
    planned = {"train/engines", "train/tasks", "train", "analysis"}
    within = ("analysis/studies/",)
    assert {f for f in ARROWS if not f.startswith(within)} - planned <= drawn
