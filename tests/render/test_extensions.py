"""The tables say what AWS and Python say; the macros compute from them."""

import keyword
import re
import sys
from itertools import chain
from typing import Any

import botocore.session
import pytest
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tests.conftest import Render
from tests.project import PYTHON, ROOT, run


@pytest.fixture(scope="module")
def macros() -> Environment:
    """An environment such as Copier's, with the one filter that the macros use."""
    environment = Environment(loader=FileSystemLoader(ROOT), undefined=StrictUndefined)
    environment.filters["from_yaml"] = yaml.safe_load
    return environment


def call(macros: Environment, file: str, name: str, *arguments: object) -> str:
    return str(getattr(macros.get_template(f"extensions/{file}.jinja").module, name)(*arguments))


def table(name: str) -> Any:
    return yaml.safe_load((ROOT / "extensions" / f"{name}.yml").read_text())


def test_the_regions_are_those_with_ecs_and_ecr() -> None:
    session = botocore.session.get_session()
    regions = table("regions")
    for partition in session.get_available_partitions():
        expected = set(session.get_available_regions("ecs", partition)) & set(
            session.get_available_regions("ecr", partition)
        )
        assert set(regions.get(partition, {}).get("regions", [])) == expected, partition


def test_the_dns_suffixes_are_those_of_the_partitions() -> None:
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
    repository = render(python_version=PYTHON, kafka=True, telemetry=True)
    run("uv", "sync", "--quiet", cwd=repository)
    listed = "from importlib.metadata import packages_distributions as all; print(*all())"
    names = run(repository / ".venv/bin/python", "-c", listed).stdout.split()
    assert "fastapi" in names
    package = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")  # what copier.yml accepts
    assert {name for name in names if package.fullmatch(name)} <= {*chain(*table("reserved").values())}


def test_reserved_names_are_sorted_and_stand_once() -> None:
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
def test_the_registry_follows_the_partition(macros: Environment, region: str, registry: str) -> None:
    assert call(macros, "aws", "ecr_registry", "012345678901", region) == registry


def test_an_unknown_region_has_no_partition(macros: Environment) -> None:
    assert call(macros, "aws", "partition", "us-east-9") == ""


@pytest.mark.parametrize(("network", "bits"), [("10.0.0.0/8", "0"), ("10.0.0.1/8", "1"), ("172.16.0.0/11", "1048576")])
def test_host_bits_are_what_the_prefix_does_not_cover(macros: Environment, network: str, bits: str) -> None:
    assert call(macros, "aws", "host_bits", network) == bits


def test_sizes_are_offered_in_words(macros: Environment) -> None:
    assert yaml.safe_load(call(macros, "fargate", "cpu_choices"))["0.25 vCPU"] == 256
    assert yaml.safe_load(call(macros, "fargate", "memory_choices", 256)) == {"0.5 GB": 512, "1 GB": 1024, "2 GB": 2048}
    assert call(macros, "fargate", "default_memory", 1024) == "2048"


def test_sizes_in_python_are_those_of_the_table(macros: Environment) -> None:
    sizes = eval(call(macros, "fargate", "python_sizes"))
    assert {cpu: list(memory) for cpu, memory in sizes.items()} == table("fargate")


def test_images_carry_the_pinned_versions(macros: Environment) -> None:
    pins = table("versions")
    assert call(macros, "images", "uv", "ghcr.io/astral-sh") == f"ghcr.io/astral-sh/uv:{pins['uv']}"
    assert call(macros, "images", "python", "r", "3.14") == f"r/python:3.14-slim-{pins['debian']}"


def test_packages_are_named_after_services(macros: Environment) -> None:
    assert call(macros, "names", "package", "my-service-2") == "my_service_2"
    assert call(macros, "names", "reserved", "fastapi").strip() == "fastapi"
    assert call(macros, "names", "reserved", "my_service").strip() == ""
