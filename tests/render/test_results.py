"""What is claimed is what was measured."""

from benchmarks import report
from tests.project import ROOT


def test_the_readme_shows_the_recorded_results() -> None:
    readme = (ROOT / "README.md").read_text()
    assert report.tables(report.load()) in readme
    assert f"({report.PLOT.relative_to(ROOT)})" in readme
