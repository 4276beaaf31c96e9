"""The questionnaire as a person meets it, in a terminal of 80 columns."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from tests.support.template import ASKED, EXAMPLES, NEWEST, QUESTIONS, first_line
from tests.support.terminal import CLEAR, Terminal, terminal

MISTAKES = [
    ("service_name", "", "lower-case words joined by hyphens"),
    ("service_name", "My Service", "lower-case words joined by hyphens"),
    ("service_name", "a", "2 to 40 characters"),
    ("service_name", "logging", "taken by Python, a library or tool"),
    ("description", "", "1 to 100 characters"),
    ("description", " a", "no spaces at the start or the end"),
    ("description", 'a "b"', 'one line without " and without \\'),
    ("pack", "", "lower-case words joined by hyphens"),
    ("pack", "@pack", "lower-case words joined by hyphens"),
    ("pack", "p", "2 to 40 characters"),
    ("pack", "off", "not a YAML word such as yes or null"),
    ("workers", "0", "a whole number from 1 to 64"),
    ("workers", "17", "at most 16: 128 MiB each, task has 2048"),
    ("aws_account_id", "123456789012210987654321", "12 digits, as in 123456789012"),
    ("aws_account_id", "1234", "12 digits, as in 123456789012"),
    ("aws_region", "us-east-9", "a region with ECS, as in us-east-1"),
]
GOOD = {"workers": "2", "aws_account_id": "210987654321", "aws_region": "eu-west-1"}


def copy(template: Path, folder: Path, *options: str) -> AbstractContextManager[Terminal]:
    return terminal("copier", "copy", "--vcs-ref", NEWEST, *options, template, "new", cwd=folder)


def answer(questionnaire: Terminal, name: str) -> None:
    """Type the example of a question that starts empty; accept the suggestion of any other."""
    questionnaire.type(EXAMPLES.get(name, "") + "\r")


@pytest.fixture
def questionnaire(template: Path, tmp_path: Path) -> Iterator[Terminal]:
    with copy(template, tmp_path) as started:
        yield started


def test_at_most_nine_questions_are_asked_and_enter_accepts_each_suggestion(
    questionnaire: Terminal, tmp_path: Path
) -> None:
    assert len(ASKED) <= 9
    for name in ASKED:
        questionnaire.wait_for(first_line(name))
        for line in str(QUESTIONS[name]["help"]).splitlines():
            assert line in questionnaire.text(), "a line of help is cut off"
        if name not in EXAMPLES and "choices" not in QUESTIONS[name]:
            assert "Ctrl-U erases it" in questionnaire.text(), "nothing says how to erase the suggestion"
        answer(questionnaire, name)
    questionnaire.wait_for("my-service is ready. Next:")
    assert questionnaire.wait_for_end() == 0
    answers = yaml.safe_load((tmp_path / "new/.copier-answers.yml").read_text())
    assert {name: answers[name] for name in EXAMPLES} == EXAMPLES
    assert answers.keys() >= set(ASKED)


def test_what_is_typed_is_the_answer_and_replaces_the_grey_example(questionnaire: Terminal, tmp_path: Path) -> None:
    typed = {"service_name": "orders", "description": "Takes orders.", "pack": "shop"} | GOOD
    for name in ASKED:
        questionnaire.wait_for(first_line(name))
        if name in EXAMPLES:
            questionnaire.wait_for("\n   " + EXAMPLES[name])
            questionnaire.type(typed[name])
            questionnaire.wait_for("\n   " + typed[name])
            assert EXAMPLES[name] not in questionnaire.text()
            questionnaire.type("\r")
        else:
            questionnaire.type(CLEAR + typed[name] + "\r" if name in typed else "\r")
    questionnaire.wait_for("orders is ready. Next:")
    assert questionnaire.wait_for_end() == 0
    answers = yaml.safe_load((tmp_path / "new/.copier-answers.yml").read_text())
    assert {name: str(answers[name]) for name in typed} == typed


@pytest.mark.parametrize(("name", "mistake", "rule"), MISTAKES)
def test_a_mistake_is_answered_with_the_rule_and_can_be_corrected(
    questionnaire: Terminal, name: str, mistake: str, rule: str
) -> None:
    for earlier in ASKED[: ASKED.index(name)]:
        questionnaire.wait_for(first_line(earlier))
        answer(questionnaire, earlier)
    questionnaire.wait_for(first_line(name))
    questionnaire.type(CLEAR + mistake + "\r")
    questionnaire.wait_for(f"Validation error for question '{name}': {rule}")
    assert mistake in questionnaire.text(), "what was typed is gone"
    following = [first_line(each) for each in ASKED[ASKED.index(name) + 1 :][:1]] or ["is ready. Next:"]
    assert following[0] not in questionnaire.text()
    questionnaire.type(CLEAR + GOOD.get(name, "orders") + "\r")
    questionnaire.wait_for(following[0])


def test_what_follows_from_an_earlier_answer_is_suggested(template: Path, tmp_path: Path) -> None:
    with copy(template, tmp_path, "--ask", "cpu", "--ask", "package_name") as questionnaire:
        questionnaire.wait_for(first_line("service_name"))
        questionnaire.type("orders-api\r")
        for name in ("description", "pack", "python_version"):
            questionnaire.wait_for(first_line(name))
            answer(questionnaire, name)
        questionnaire.wait_for(first_line("cpu"))
        assert "0.25 vCPU" in questionnaire.text()
        questionnaire.type("\x1b[B\r")  # one down from 1 vCPU
        questionnaire.wait_for(first_line("workers"))
        questionnaire.wait_for("\n   2")
        for name in ("workers", "database", "deploy", "aws_account_id", "aws_region"):
            questionnaire.wait_for(first_line(name))
            answer(questionnaire, name)
        questionnaire.wait_for("orders_api")


@pytest.mark.parametrize(
    ("options", "asked"),
    [((), []), (("--data", "kafka=true"), ["aws_region"]), (("--data", "database=postgres"), ["aws_region"])],
)
def test_a_service_that_is_not_deployed_needs_no_account(
    template: Path, tmp_path: Path, options: tuple[str, ...], asked: list[str]
) -> None:
    """Kafka and a database log in to a region, wherever the service runs."""
    with copy(template, tmp_path, *options) as questionnaire:
        for name in ASKED[: ASKED.index("deploy")]:
            if f"{name}=" not in " ".join(options):
                questionnaire.wait_for(first_line(name))
                answer(questionnaire, name)
        questionnaire.wait_for(first_line("deploy"))
        questionnaire.type("\x1b[A\r")  # up from the first choice is the last
        for name in asked:
            questionnaire.wait_for(first_line(name))
            answer(questionnaire, name)
        questionnaire.wait_for("my-service is ready. Next:")
    answers = yaml.safe_load((tmp_path / "new/.copier-answers.yml").read_text())
    assert (answers["deploy"], answers["aws_account_id"]) == ("none", "123456789012")


@pytest.mark.parametrize("answered", [0, 3, 7])
def test_ctrl_c_leaves_nothing_behind(questionnaire: Terminal, tmp_path: Path, answered: int) -> None:
    for name in ASKED[:answered]:
        questionnaire.wait_for(first_line(name))
        answer(questionnaire, name)
    questionnaire.wait_for(first_line(ASKED[answered]))
    questionnaire.type("\x03")
    assert questionnaire.wait_for_end() == 1
    assert list(tmp_path.iterdir()) == []
