"""What is claimed is what was measured."""

from benchmarks import report
from tests.support.template import ROOT


def test_the_documents_show_the_recorded_results() -> None:
    for document, tables in report.documents(report.load()).items():
        assert f"<!-- make bench: from here -->\n\n{tables}\n\n<!-- to here -->" in document.read_text()


def test_the_readme_shows_both_pictures_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text()
    for picture in report.PICTURES.values():
        assert picture.exists()
        assert str(picture.relative_to(ROOT)) in readme


def test_the_readme_says_what_was_measured_of_stops_and_failed_starts() -> None:
    readme = (ROOT / "README.md").read_text()
    failures = report.load()["failures"]
    conventional, ours = failures["conventional"], failures["slim"]
    lost = [f"lost {image['lost_requests']} of 100" for image in (conventional, ours)]
    assert all(text in readme for text in lost)
    assert f"writes {conventional['lines_after_the_reason']} more lines after the reason" in readme
    assert f"leaves {conventional['overload_unanswered']:.0f} of 100 without an answer" in readme
    assert (ours["overload_unanswered"], ours["overload_health"]) == (0, 100)
    updates = report.load()["updates"]
    assert (
        f"In {updates['services']} tried updates of edited services, no line was lost; {updates['with_conflicts']}"
        in readme
    )
    stopped = f"{updates['refused']} stopped at edits of files that this version removes"
    assert (stopped in readme) == (updates["refused"] > 0)
    assert updates["lines_lost"] == 0
    assert ours["lines_after_the_reason"] == 0, "the README says that the reason is the last line"
