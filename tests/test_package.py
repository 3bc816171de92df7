"""The package around the library: its long description, the repository's address in one place, what GitHub is told."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

_spec = importlib.util.spec_from_file_location("package_setup", ROOT / "setup.py")
package = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(package)

PAGE = """# A page

![A picture](assets/a.png)

[The licence](LICENSE), [data](data/README.md#here), [below](#below) and [away](https://example.org/).
"""


def test_without_an_address_links_into_the_repository_become_text_and_the_picture_goes():
    assert package.long_description(PAGE, None) == (
        "# A page\n\nThe licence, data, [below](#below) and [away](https://example.org/).\n"
    )


def test_with_an_address_links_and_pictures_lead_into_the_repository():
    lines = package.long_description(PAGE, "https://example.org/a/b").splitlines()
    assert lines[2] == "![A picture](https://example.org/a/b/raw/main/assets/a.png)"
    assert lines[4] == (
        "[The licence](https://example.org/a/b/blob/main/LICENSE), "
        "[data](https://example.org/a/b/blob/main/data/README.md#here), [below](#below) and [away](https://example.org/)."
    )


@pytest.mark.parametrize("address", [None, "https://example.org/a/b"])
def test_no_link_of_the_readme_is_relative_away_from_the_repository(address):
    described = package.long_description(README, address)
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", described) == []
    assert "## Limits" in described


def test_the_address_is_read_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://example.org/a/b"\n')
    assert package.repository_address() == "https://example.org/a/b"


def test_the_address_has_one_place_and_the_rest_agrees_with_it():
    address = package.repository_address()
    assert CITATION.get("repository-code") == address
    badge = (
        None if address is None else f"[![tests]({address}/actions/workflows/test.yml/badge.svg)]({address}/actions)"
    )
    assert re.findall(r"^\[!\[tests\].*$", README, re.MULTILINE) == ([badge] if badge else [])


def test_the_authors_are_those_of_the_citation():
    assert PROJECT["authors"] == [{"name": author["name"]} for author in CITATION["authors"]]


def test_a_version_of_python_that_is_named_is_one_that_is_allowed():
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert named == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_limits_and_its_actions_are_pinned_to_major_versions(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "contents" in workflow["permissions"]
    assert workflow[True]  # `on`, which YAML 1.1 reads as true
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", step.get("uses", "some/action@v1")), step


def test_the_tests_run_on_three_systems():
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["test"]["runs-on"].startswith("ubuntu")
    assert jobs["elsewhere"]["strategy"]["matrix"]["system"] == ["macos-latest", "windows-latest"]
    assert not any("make" in step.get("run", "") for step in jobs["elsewhere"]["steps"])


def test_what_is_depended_on_is_kept_up_to_date():
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text(encoding="utf-8"))["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "github-actions"}
