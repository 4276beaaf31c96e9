"""The macros of extensions/, without Copier."""

from collections.abc import Callable

import pytest
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from tests.support.template import COPIER_YML, ROOT


@pytest.fixture(scope="session")
def macro() -> Callable[..., str]:
    """Return a function that calls a macro: `macro("aws", "partition", "us-east-1")` is `aws`."""
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(ROOT),
        extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
        **COPIER_YML["_envops"] | {"undefined": StrictUndefined},
    )

    def macro(file: str, name: str, *arguments: object) -> str:
        return str(getattr(environment.get_template(f"extensions/{file}.jinja").module, name)(*arguments))

    return macro
