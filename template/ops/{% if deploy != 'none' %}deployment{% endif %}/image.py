"""The image of a commit in the registry. Kept by the template."""

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from aws import ACCOUNT, REGION, REGISTRY, ROOT, SERVICE, AwsError, call

REPOSITORY = f"{os.environ.get('REGISTRY') or REGISTRY}/{SERVICE}"  # REGISTRY names another registry
COMMIT = "[0-9a-f]{40}"
LABEL = "org.opencontainers.image.revision"
# Where a developer may have configured a package index for uv, which builds do not see.
CONFIGURED = ("UV_CONFIG_FILE", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX", "UV_INDEX_URL")


def run(*command: str, said: str = "", **options: Any) -> str:
    """Run a command and return what it printed; if it fails, end with its first line after `said`."""
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **options)
    if done.returncode:
        sys.exit(f"{said} {(done.stderr or done.stdout).strip().partition(chr(10))[0]}".strip())
    return str(done.stdout).strip()


def head() -> str:
    """Return this commit."""
    said = "There is no commit to name the image after: git init, git add, git commit. Git says:"
    return run("git", "rev-parse", "--verify", "HEAD", said=said)


def file_of(commit: str, name: str) -> str:
    """Return where a file of this repository is as a commit has it: the image has that port and processor."""
    if not re.fullmatch(COMMIT, commit):
        return name
    found = subprocess.run(("git", "show", f"{commit}:./{name}"), cwd=ROOT, capture_output=True)
    if found.returncode:
        print(f"This clone does not know commit {commit}, and takes its own {name}.", file=sys.stderr)
    if found.returncode or found.stdout == (ROOT / name).read_bytes():
        return name
    copy = Path(tempfile.mkdtemp(), Path(name).name)
    atexit.register(shutil.rmtree, copy.parent)
    copy.write_bytes(found.stdout)
    print(f"Taking {name} of commit {commit}, which differs from this one's.", file=sys.stderr)
    return str(copy)


def check() -> None:
    """End with the rule if this commit says not all of what its image is made of."""
    head()
    if not run("git", "ls-files", "uv.lock"):
        sys.exit("uv.lock is missing or not committed: run 'make lock' and commit it.")
    if run("git", "status", "--porcelain", "--", "."):
        sys.exit("There are changes that are not committed; the image is named after the commit.")
    if shutil.which("uv"):  # where uv or its Python is missing, the build checks this
        env = {name: value for name, value in os.environ.items() if name not in CONFIGURED}
        env |= {"UV_PYTHON_DOWNLOADS": "never", "XDG_CONFIG_HOME": os.devnull}
        locked = subprocess.run(("uv", "lock", "--check"), cwd=ROOT, text=True, capture_output=True, env=env)
        if "needs to be updated" in locked.stderr:
            sys.exit("uv.lock does not fit pyproject.toml: run 'make lock' and commit it.")
        for index in foreign_indexes(env):
            print(
                f"uv.lock takes packages from {index}, which pyproject.toml does not name. If only you use that, run "
                f"'make lock ON_HOST=' and commit; else run 'make template-update ANSWERS=package_index_url={index}'.",
                file=sys.stderr,
            )


def foreign_indexes(env: dict[str, str]) -> list[str]:
    """Return the package indexes of the lock that neither pyproject.toml names nor uv knows by itself.

    uv builds from such a lock without a word, as long as it can reach the files.
    """
    indexes = ("uv", "pip", "compile", "--quiet", "--python", sys.executable, "--emit-index-url", "-")
    known = run(*indexes, env=env, input="") + (ROOT / "pyproject.toml").read_text()
    locked = set(re.findall('registry = "(https?://[^"]*)"', (ROOT / "uv.lock").read_text()))
    return sorted(index for index in locked if index.partition("//")[2] not in known)


def push(commit: str = "") -> str:
    """Return the address of a commit's image, with its digest; without a commit, build and push this one if need be."""
    if commit and not re.fullmatch(COMMIT, commit):
        sys.exit("IMAGE_TAG is a whole commit id, 40 characters of 0-9 and a-f: git rev-parse COMMIT")
    if not commit:
        check()
    if REPOSITORY.startswith("123456789012."):
        change = "make template-update ANSWERS=aws_account_id=ACCOUNT"
        sys.exit(f"123456789012 is no AWS account: run '{change}' with that of the ECR repository.")
    registry, tag = REPOSITORY.partition("/")[0], commit or head()
    said = f"Cannot log in to {registry}:"
    password = run("aws", "ecr", "get-login-password", "--region", REGION, said=said)
    run("docker", "login", "--username", "AWS", "--password-stdin", registry, said=said, input=password)
    if digest := look_up(tag):
        print(f"{REPOSITORY}:{tag} is in the registry.", file=sys.stderr)
    elif commit:
        sys.exit(f"There is no image of commit {commit} in {REPOSITORY}: run 'make push' there.")
    else:
        build(tag)
        # The tag is pushed last, so there is none before the whole image is there.
        if subprocess.run(("docker", "push", f"{REPOSITORY}:{tag}"), stdout=sys.stderr).returncode:
            print("docker push has failed.", file=sys.stderr)
        digest = look_up(tag) or sys.exit(f"The image cannot be pushed; {REPOSITORY} has no tag {tag}.")
    return f"{REPOSITORY}@{digest}"


def build(commit: str) -> None:
    """Give this machine the image of this commit. BUILT names one that is there already."""
    image, built = f"{REPOSITORY}:{commit}", os.environ.get("BUILT")
    if built:
        inspect = ("docker", "image", "inspect", "--format", "{{json .Config.Labels}}", built)
        labels = json.loads(run(*inspect, said=f"There is no image {built}:")) or {}
        if labels.get(LABEL) != commit:
            sys.exit(f"{built} is not the image of this commit: run 'make build' again.")
        run("docker", "tag", built, image)
        return
    make = ("make", "--no-print-directory", "build", f"IMAGE={image}")
    if subprocess.run(make, cwd=ROOT, stdout=sys.stderr).returncode:
        sys.exit("The image cannot be built; nothing has been pushed.")


def look_up(commit: str) -> str:
    """Return the digest of a tag, or "" if there is no such tag; the tag must hold the image of that commit."""
    command = ("docker", "buildx", "imagetools", "inspect", f"{REPOSITORY}:{commit}", "--format")
    found = subprocess.run((*command, "{{json .Manifest.Digest}} {{json .Image}}"), text=True, capture_output=True)
    if found.returncode and "not found" in found.stderr:
        return ""
    if found.returncode:
        sys.exit(f"Cannot read {REPOSITORY}: {found.stderr.strip().partition(chr(10))[0]}")
    digest, _, config = found.stdout.partition(" ")
    if not re.search(rf'"{LABEL}": *"{commit}"', config):
        sys.exit(f"{REPOSITORY}:{commit} is not the image of that commit: another one has been pushed under its name.")
    return digest.strip('"')


@cache
def processor(image: str) -> str:
    """Return what an image in the registry runs on, in ECS's word for it, or "" if that cannot be known."""
    command = ("docker", "buildx", "imagetools", "inspect", image, "--format", "{{json .Image}}")
    found = subprocess.run(command, text=True, capture_output=True).stdout
    names = {"amd64": "X86_64", "arm64": "ARM64"}
    return next((word for name, word in names.items() if re.search(rf'"architecture": *"{name}"', found)), "")


def commit_of(image: str) -> str:
    """Return the commit whose image this is, or "" if that cannot be known."""
    address, _, digest = image.partition("@")
    if tag := re.search(f":({COMMIT})$", address):
        return tag[1]
    ask = {"registryId": ACCOUNT, "repositoryName": SERVICE, "imageIds": [{"imageDigest": digest}]}
    try:
        found = call("ecr", "describe-images", **ask)["imageDetails"] if digest else []
    except AwsError:  # another registry, or one that may not be read
        return ""
    return next((tag for each in found for tag in each.get("imageTags", []) if re.fullmatch(COMMIT, tag)), "")


def named(image: str) -> str:
    """Return an image as people know it: its commit, or the end of its address."""
    commit = commit_of(image)
    return f"commit {commit}" if commit else f"the image {image.rpartition('/')[2]}"
