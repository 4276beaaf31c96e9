"""The tables say what AWS and Python say; the macros compute from them."""

import keyword
import re
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

import botocore.session
import pytest
import yaml

from tests.support.commands import run
from tests.support.template import PYTHON, ROOT, Render

Macro = Callable[..., str]


def table(name: str) -> Any:
    return yaml.safe_load((ROOT / "extensions" / f"{name}.yml").read_text())


def test_the_region_table_lists_the_regions_with_ecs_and_ecr() -> None:
    session = botocore.session.get_session()
    regions = table("regions")
    for partition in session.get_available_partitions():
        expected = set(session.get_available_regions("ecs", partition)) & set(
            session.get_available_regions("ecr", partition)
        )
        assert set(regions.get(partition, {}).get("regions", [])) == expected, partition


def test_the_region_table_has_the_dns_suffix_of_each_partition() -> None:
    session = botocore.session.get_session()
    data = {p["id"]: p["outputs"]["dnsSuffix"] for p in session.get_data("partitions")["partitions"]}
    assert {name: facts["dns_suffix"] for name, facts in table("regions").items()} == {
        name: data[name] for name in table("regions")
    }


def test_every_keyword_and_standard_module_is_reserved() -> None:
    names = {name for name in sys.stdlib_module_names if name.isascii() and name == name.lower() and name[0] != "_"}
    words = {word for word in (*keyword.kwlist, *keyword.softkwlist) if word.islower()}
    assert (names | words) - {"_"} <= set(table("reserved")["python"]) | {"_"}


def test_every_module_that_a_service_installs_is_reserved(render: Render) -> None:
    repository = render(python_version=PYTHON, kafka=True, telemetry=True, database="postgres")
    run("uv", "sync", "--quiet", cwd=repository)
    listed = "from importlib.metadata import packages_distributions as all; print(*all())"
    names = run(repository / ".venv/bin/python", "-c", listed).stdout.split()
    assert "fastapi" in names
    package = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")  # what copier.yml accepts
    assert {name for name in names if package.fullmatch(name)} <= {*chain(*table("reserved").values())}


def test_reserved_names_are_sorted_and_unique() -> None:
    for group, names in table("reserved").items():
        assert names == sorted(set(names)), group


@pytest.mark.parametrize(
    ("region", "registry"),
    [
        ("us-east-1", "012345678901.dkr.ecr.us-east-1.amazonaws.com"),
        ("us-gov-west-1", "012345678901.dkr.ecr.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "012345678901.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        ("eusc-de-east-1", "012345678901.dkr.ecr.eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_the_ecr_host_depends_on_the_partition(macro: Macro, region: str, registry: str) -> None:
    assert macro("aws", "ecr_registry", "012345678901", region) == registry


def test_an_unknown_region_has_no_partition(macro: Macro) -> None:
    assert macro("aws", "partition", "us-east-9") == ""


def test_fargate_sizes_are_offered_in_words(macro: Macro) -> None:
    assert yaml.safe_load(macro("fargate", "cpu_choices"))["0.25 vCPU"] == 256
    assert yaml.safe_load(macro("fargate", "memory_choices", 256)) == {"0.5 GB": 512, "1 GB": 1024, "2 GB": 2048}
    assert macro("fargate", "default_memory", 1024) == "2048"


def test_fargate_sizes_in_python_match_the_table(macro: Macro) -> None:
    sizes = eval(macro("fargate", "python_sizes"))
    assert {cpu: list(memory) for cpu, memory in sizes.items()} == table("fargate")


def test_a_package_name_is_the_service_name_with_underscores(macro: Macro) -> None:
    assert macro("names", "package", "my-service-2") == "my_service_2"
    assert macro("names", "reserved", "fastapi").strip() == "fastapi"
    assert macro("names", "reserved", "my_service").strip() == ""
