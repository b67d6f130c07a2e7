"""Hooks of mkdocs.yml: pages of the Python API, one page per decision, and links that leave docs/.

The pages of the API are made from the public docstrings when the site is built; none of them is stored in docs/.
"""

from __future__ import annotations

import os
import pkgutil
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import s2vnet

ROOT = Path(__file__).parent.parent
REPOSITORY = os.environ.get("GITHUB_REPOSITORY", "")
"""Owner and name on GitHub, as GitHub's workflows set it; links to files outside docs/ lead there."""
API, MODULES = "api/index.md", "api/modules"
FOREIGN = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc=["']?((?:https?:)?//[^"'> ]+)"""
    r"""|<link\b(?=[^>]*\bstylesheet)[^>]*\bhref=["']?((?:https?:)?//[^"'> ]+)"""
)
"""Scripts, images, frames and styles of other servers."""
LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the API and of the decisions to the navigation."""
    config.nav = [_with_api(entry) for entry in config.nav]
    decisions = sorted(Path(config.docs_dir, "decisions").glob("*.md"))
    config.nav.append({"Decisions": [f"decisions/{page.name}" for page in decisions]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Generate the pages of the API."""
    for path, text in api_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to files of the repository outside docs/ into links to the repository, or into plain text."""

    def replace(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[1]))
        if target.startswith("docs/"):
            return link[0]
        if not (ROOT / target).exists():
            raise Abort(f"{page.file.src_uri}: {target} does not exist")
        return f"](https://github.com/{REPOSITORY}/blob/main/{target})" if REPOSITORY else f"]{{title='{target}'}}"

    return LINK.sub(replace, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Check that pages load nothing from other servers.

    Raises:
        Abort: a page does.
    """
    for page in sorted(Path(config.site_dir).rglob("*.html")):
        if loaded := FOREIGN.search(page.read_text(encoding="utf-8")):
            raise Abort(f"{page}: loads {loaded[1] or loaded[2]} from another server")


def api_pages() -> dict[str, str]:
    """Return the pages of the API, Markdown by path: one for the public names, and one for each package's modules."""
    names = sorted(set(s2vnet.__all__) - {"__version__"}, key=str.lower)
    public = [f"::: {_origin(name)}\n" for name in names]
    text = "# Python API\n\n`from s2vnet import ...`: these names keep their meaning within a minor version.\n\n"
    pages = {API: text + "\n".join(public)}
    for package, modules in modules_by_package().items():
        title = f"# `{package}`\n\nModules for those who read or change the source. They may change.\n\n"
        pages[_page_of(package)] = title + "\n".join(_module(module, names) for module in modules)
    return pages


def modules_by_package() -> dict[str, list[str]]:
    """Return the names of all modules except those of commands, by the top-level package that they belong to."""
    found: dict[str, list[str]] = {}
    for module in pkgutil.walk_packages(s2vnet.__path__, "s2vnet."):
        package = ".".join(module.name.split(".")[:2])
        if not module.ispkg and package not in ("s2vnet.cli", "s2vnet.__main__", "s2vnet._version"):
            found.setdefault(package, []).append(module.name)
    return found


def _with_api(entry: Any) -> Any:
    if not isinstance(entry, dict) or "Reference" not in entry:
        return entry
    modules = [{package.partition(".")[2]: _page_of(package)} for package in modules_by_package()]
    return {"Reference": [*entry["Reference"], {"Python API": API}, {"Modules": modules}]}


def _module(module: str, public: Sequence[str]) -> str:
    """Markdown for a module, without its public names, which have a page of their own."""
    own = [name for name in public if _origin(name) == f"{module}.{name}"]
    filters = "".join(f', "!^{name}$"' for name in own)
    return f'::: {module}\n    options:\n      show_root_full_path: true\n      filters: ["!^_"{filters}]\n'


def _origin(name: str) -> str:
    item = getattr(s2vnet, name)
    return f"{item.__module__}.{item.__qualname__}"


def _page_of(package: str) -> str:
    return f"{MODULES}/{package.partition('.')[2]}.md"
