"""A stand-in for GitHub's `gh`: refuses what the real one refuses, and keeps releases and pull requests in $GH_STATE.

Commands and flags are those of `gh --help`, as far as the workflows use them; GitHub's own refusals are quoted.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True)


def parser() -> argparse.ArgumentParser:
    def command(parent: Any, name: str, *positional: str, **options: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = parent.add_parser(name, allow_abbrev=False)
        for argument in positional:
            added.add_argument(argument)
        for option, settings in options.items():
            added.add_argument(f"--{option.replace('_', '-')}", **settings)
        return added

    def group(name: str) -> Any:
        return groups.add_parser(name, allow_abbrev=False).add_subparsers(dest="command", required=True)

    text: dict[str, Any] = {"required": True}
    flag: dict[str, Any] = {"action": "store_true"}
    root = argparse.ArgumentParser("gh", allow_abbrev=False)
    groups = root.add_subparsers(dest="group", required=True)
    command(group("auth"), "setup-git")
    command(group("release"), "create", "tag", target=text, title=text, notes_file=text)
    pr = group("pr")
    command(pr, "list", head=text, state=text, json=text)
    command(pr, "create", base=text, head=text, title=text, body_file=text, draft=flag)
    command(pr, "edit", "number", title=text, body_file=text)
    command(pr, "ready", "number", undo=flag)
    return root


def main() -> None:
    said = parser().parse_args()
    if not os.environ.get("GH_TOKEN"):
        sys.exit("gh: To use GitHub CLI in a GitHub Actions workflow, set the GH_TOKEN environment variable.")
    file = Path(os.environ["GH_STATE"])
    state: dict[str, list[dict[str, Any]]] = json.loads(file.read_text())
    of_branch = [pr for pr in state["pulls"] if pr["head"] == getattr(said, "head", None)]
    match said.group, said.command:
        case "release", "create":
            if any(release["tag"] == said.tag for release in state["releases"]):
                sys.exit(f"a release with the same tag name already exists: {said.tag}")
            there = not git("ls-remote", "--exit-code", "origin", f"refs/tags/{said.tag}").returncode
            if not there and git("push", "origin", f"{said.target}:refs/tags/{said.tag}").returncode:
                sys.exit("HTTP 422: Validation Failed: Release.target_commitish is invalid")
            state["releases"].append({"tag": said.tag, "title": said.title, "notes": Path(said.notes_file).read_text()})
        case "pr", "list":
            assert said.state == "all", "the stand-in knows no other query"
            print(json.dumps([{name: pr[name] for name in said.json.split(",")} for pr in of_branch]))
        case "pr", "create":
            if any(pr["state"] == "OPEN" for pr in of_branch):
                sys.exit(f'a pull request for branch "{said.head}" into branch "{said.base}" already exists')
            tips = [
                git("ls-remote", "origin", f"refs/heads/{name}").stdout.split()[:1] for name in (said.base, said.head)
            ]
            if [] in tips:
                sys.exit("pull request create failed: GraphQL: Base or head ref must be a branch (createPullRequest)")
            if tips[0] == tips[1]:
                sys.exit(f"pull request create failed: GraphQL: No commits between {said.base} and {said.head}")
            body = Path(said.body_file).read_text()
            pull = {"number": len(state["pulls"]) + 1, "head": said.head, "base": said.base, "state": "OPEN"}
            pull["isCrossRepository"] = False
            state["pulls"].append(pull | {"title": said.title, "body": body, "draft": said.draft})
        case "pr", "edit" | "ready":
            found = [pr for pr in state["pulls"] if str(pr["number"]) == said.number]
            if not found:
                sys.exit(f"GraphQL: Could not resolve to a PullRequest with the number of {said.number}.")
            if said.command == "edit":
                found[0] |= {"title": said.title, "body": Path(said.body_file).read_text()}
            else:
                found[0]["draft"] = said.undo
    file.write_text(json.dumps(state))


main()
