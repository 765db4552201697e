"""The README tells the truth about the tree."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tree() -> dict[str, str]:
    """The paths of the README's tree, with their lines."""
    block = (ROOT / "README.md").read_text().partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    paths, folder = {}, ""
    for line in block.splitlines():
        match = re.fullmatch(r"( {0,2})(\S+)\s+(\S.*)", line)
        assert match, line
        indent, name, words = match.groups()
        paths[(folder if indent else "") + name] = words
        folder = folder if indent else name
    return paths


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_every_path_in_the_tree_exists():
    assert [path for path in tree() if not (ROOT / path).exists()] == []


def test_every_folder_and_every_stage_is_in_the_tree():
    files = [Path(name) for name in tracked() if not name.startswith((".", "tests/", "docs/"))]
    folders = {f"{file.parts[0]}/" for file in files if len(file.parts) > 1}
    folders |= {f"{file.parts[0]}/{file.parts[1]}/" for file in files if len(file.parts) > 2}
    verbs = {str(file) for file in files if file.parent == Path("pipelines") and file.stem != "__init__"}
    assert folders | verbs <= set(tree())


def test_every_relative_link_of_the_pages_leads_somewhere():
    broken = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert broken == []
