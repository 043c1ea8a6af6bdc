"""The documentation is true of the running system."""

import re
from pathlib import Path

import pytest

from gateway.routes import ROUTES

ROOT = Path(__file__).parents[2]
QUERIES = re.findall(r"## ([^\n]+)\n```sql\n(.+?)\n```", (ROOT / "docs" / "sql.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[t for t, _ in QUERIES])
def test_a_query_of_the_documentation_runs(system, deployed, title, query):
    assert isinstance(system.sql(query), list)


def test_there_are_twenty_queries_at_least():
    assert len(QUERIES) >= 20


def test_links_between_the_documents_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} → {target}"


def test_every_command_has_help_with_an_example():
    from gateway.cli import main

    for name, command in main.commands.items():
        assert "Example:" in (command.help or ""), name


def test_every_handler_says_what_it_does():
    assert all((r.handler.__doc__ or "").strip() for r in ROUTES)


def test_every_law_names_tests_that_exist():
    text = (ROOT / "docs" / "operations.md").read_text()
    laws = [line for line in text.splitlines() if re.match(r"\| \d+ ", line)]
    assert [int(line.split()[1]) for line in laws] == list(range(1, 11))
    for line in laws:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line)
        assert len(named) >= 2, line
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(), test
