"""MkDocs hooks: pages from elsewhere in the repository, and links that are right there and on the site.

Links in Markdown files are those that work in the repository. The site has the files of docs/ at its root and all else
at its own path, so that a link from docs/ to ``../CONTRIBUTING.md`` becomes one to ``CONTRIBUTING.md``. A file
outside of docs/ that a page links to is copied.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

PAGES = {
    "README.md": "index.md",
    **{
        name: name
        for name in (
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "checkpoints/README.md",
            "experiments/results/README.md",
        )
    },
}
"""Pages that lie outside of docs/, and where they are on the site."""

_LINK = re.compile(r"(?P<begin>\]\()(?P<path>[^)#:\s]+)(?P<end>(#[^)\s]*)?\))")
_FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)


def _in_repository(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    return next((path for path, site in PAGES.items() if site == uri), f"docs/{uri}")


def _on_site(path: str) -> str:
    """Where a file of the repository lies on the site."""
    return PAGES.get(path, path.removeprefix("docs/"))


def _linked(text: str, page: str) -> list[str]:
    """The files outside of docs/ that a page of the repository links to, by their paths in the repository."""
    prose = "".join(_FENCE.split(text)[::2])
    paths = [posixpath.normpath(posixpath.join(posixpath.dirname(page), m["path"])) for m in _LINK.finditer(prose)]
    return [path for path in paths if not path.startswith("docs/") and (ROOT / path).is_file()]


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages from outside of docs/, and the files that pages link to."""
    own = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    linked = {path for page in (*own, *PAGES) for path in _linked((ROOT / page).read_text(encoding="utf-8"), page)}
    for path in sorted({*PAGES, *linked}):
        files.append(File.generated(config, _on_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links of the repository as links of the site."""
    uri = page.file.src_uri
    here, folder = posixpath.dirname(_in_repository(uri)), posixpath.dirname(uri)

    def mended(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(here, match["path"]))
        return match["begin"] + posixpath.relpath(_on_site(path), folder or ".") + match["end"]

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(mended, part) for part in parts[::2]]
    return "".join(parts)
