"""What all scenarios have in common: their list, reports, and places in the pages."""

import re
from pathlib import Path

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks import scenarios
from trainloop.tasks.scenarios import Report, documents

ROOT = Path(__file__).resolve().parents[3]
PAGES = ROOT / "docs" / "questions"
CLAIMS = [f"{part}{number}" for part, last in (("A", 4), ("B", 4), ("C", 5), ("D", 4)) for number in range(1, last + 1)]


def index_rows() -> dict[str, list[str]]:
    """The cells of the index by the row's name."""
    lines = re.findall(r"^\| ([A-D]\d) \|(.+)\|$", (PAGES / "index.md").read_text(), re.MULTILINE)
    return {row: [cell.strip() for cell in re.split(r"(?<!\\)\|", cells)] for row, cells in lines}


def linked(cell: str) -> Path:
    """The file that a cell links to."""
    found = re.fullmatch(r"\[.+\]\((.+)\)", cell)
    assert found, cell
    return (PAGES / found[1]).resolve()


def test_every_claim_has_a_scenario_in_order():
    assert [scenario.row for scenario in scenarios.ALL] == CLAIMS
    assert len({scenario.name for scenario in scenarios.ALL}) == len(CLAIMS)
    assert list(index_rows()) == CLAIMS


@pytest.mark.parametrize("row", CLAIMS)
def test_every_claim_has_a_test_a_section_and_a_figure(row):
    [scenario] = [each for each in scenarios.ALL if each.row == row]
    *_, name, test, section, figure = index_rows()[row]
    assert name == f"`{scenario.name}`"
    assert "@pytest.mark.scenarios" in linked(test).read_text()
    page = linked(section)
    assert page == documents.page_of(PAGES, scenario.name)
    [text] = re.findall(rf"^## {row}\. (.+?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert f"<!-- table: {scenario.name} -->\n|" in text  # a table was written
    assert f"scripts/scenario.py --name={scenario.name}" in text
    assert f"]({scenario.name}.png)" in text
    assert "| commonly said | measured |" in text
    assert "```python" in text
    assert linked(figure) == PAGES / f"{scenario.name}.png"
    assert linked(figure).stat().st_size > 5_000


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match="'inverted-dropuot' is no scenario; did you mean 'inverted-dropout'"):
        scenarios.find("inverted-dropuot")
    with pytest.raises(ValueError, match="'xyz' is no scenario; there are phase-not-passed, no-recompiling"):
        scenarios.find("xyz")


def drawn(figure):
    figure.subplots().plot([0, 1], [0, 1])


REPORT = Report(["a", "b"], [["1", "x|y"]], "So it is.", drawn)


def test_a_report_goes_between_its_markers_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    another = "<!-- table: {} -->\nkept\n<!-- end -->\n"
    around = f"before\n{another.format('one')}<!-- table: mine -->{{}}<!-- end -->\n{another.format('two')}"
    page.write_text(around.format("\n"))
    for _ in range(2):
        documents.write(tmp_path, "mine", REPORT, seeds=5)
        table = "\n| a | b    |\n|---|------|\n| 1 | x\\|y |\n\nSo it is. (5 seeds.)\n"
        assert page.read_text() == around.format(table)
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ([""], "no page has the lines '<!-- table: mine -->' and '<!-- end -->'"),
        (["<!-- table: mine -->\n<!-- end -->"] * 2, "0.md, 1.md have the lines"),
    ],
)
def test_without_a_place_of_its_own_nothing_is_written(tmp_path, pages, said):
    for number, text in enumerate(pages):
        (tmp_path / f"{number}.md").write_text(text)
    with pytest.raises(ValueError, match=said):
        documents.write(tmp_path, "mine", REPORT, seeds=5)
    assert not (tmp_path / "mine.png").exists()


def test_the_margin_is_students():
    """The quantile of Student's t with four degrees of freedom at 99.9 % is 7.173 in any table."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert lower_bound(values) == pytest.approx(3 - 7.173 * 2.5**0.5 / 5**0.5, abs=1e-3)
    assert upper_bound(values) == pytest.approx(3 + 7.173 * 2.5**0.5 / 5**0.5, abs=1e-3)
    with pytest.raises(AssertionError, match="4 seeds are too few"):
        lower_bound(values[:4])
