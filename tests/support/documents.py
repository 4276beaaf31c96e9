"""What a document tells its reader to run."""

import re
import textwrap

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str = "shell") -> list[str]:
    """Return the fenced code blocks of a Markdown text in this language."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found]
