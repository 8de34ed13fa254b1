"""What the docs say is so: options as the commands have them, JSON fields as they are printed, links that lead somewhere."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli_docs import PAGE, renewed
from traklens.engine.cli.main import app
from traklens.stores.store import open_store

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "stores/FORMAT.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_options_are_those_of_the_commands():
    page = PAGE.read_text(encoding="utf-8")
    assert renewed(page) == page, "run `python -m tests.cli_docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("command", ["query", "remove", "hunt"])
def test_the_documented_fields_are_the_printed_ones(own_store, command):
    """The first braces of a section name the top-level fields; what follows in brackets is optional."""
    section = PAGE.read_text(encoding="utf-8").split(f"## `{command} --json`")[1].split("\n## ")[0]
    documented = set(re.findall(r'^ ?\{?"(\w+)":|, "(\w+)":', section.split("```")[1], re.MULTILINE))
    names = {name for pair in documented for name in pair if name}
    id = str(open_store(own_store).examples.id[-1])
    arguments = {
        "query": ["--id", id, "--top", "2"],
        "remove": ["--id", id, "--top", "2"],
        "hunt": ["--truth", "true_text", "--top", "2"],
    }[command]
    done = CliRunner().invoke(app, [command, str(own_store), *arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)) <= names


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert max(len(line) for line in lines if "|" not in line and "](" not in line) <= 100
