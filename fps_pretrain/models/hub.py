"""Weights on the Hugging Face hub, by name: ``hf:OWNER/NAME[@REVISION][:FILE]``.

What is downloaded stays in the hub's own cache (``HF_HOME``), is not fetched again, and is found there without network
(``HF_HUB_OFFLINE=1``). What a repository holds is read as any other user's file: nothing of it is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fps_pretrain.common.errors import UserError, check_installed, one_line

PREFIX = "hf:"

USUAL_FILE = "model.safetensors"
"""What ``fps_pretrain.publish`` uploads, and what is taken from a repository unless a file is named."""

SUFFIXES = (".safetensors", ".pt")
"""Files among which the only one is taken where there is no ``USUAL_FILE``."""

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_NAME = re.compile(rf"{PREFIX}(?P<repo>{REPOSITORY.pattern})(@(?P<revision>[^:@\s]+))?(:(?P<file>.+))?", re.ASCII)

MOST_NAMED = 8
"""Files that a message names at most."""


@dataclass(frozen=True)
class HubName:
    """A repository, a branch, tag or commit of it (None for its main branch), and a file (None for the usual one)."""

    text: str
    repo: str
    revision: str | None
    file: str | None


def parse(text: str) -> HubName:
    """The parts of ``hf:OWNER/NAME[@REVISION][:FILE]``.

    Raises:
        UserError: it is not of that form.
    """
    found = _NAME.fullmatch(text)
    if found is None or not _is_plain(found["file"] or USUAL_FILE):
        raise UserError(f"{text} is not of the form hf:OWNER/NAME[@REVISION][:FILE]")
    return HubName(text, found["repo"], found["revision"], found["file"])


def short_name(text: str) -> str:
    """A name for folders and legends: ``hf:lab/fps@v2`` is hf-lab-fps-v2."""
    name = parse(text)
    parts = (name.repo, name.revision, name.file and str(Path(name.file).with_suffix("")))
    return "-".join(["hf", *(part.replace("/", "-") for part in parts if part)])


def _is_plain(file: str) -> bool:
    """Whether a file's name leads nowhere else."""
    return file.isprintable() and "\\" not in file and not {"", ".", ".."} & set(file.split("/"))


def download(text: str) -> Path:
    """The file in the hub's cache, downloaded if it is not there.

    Raises:
        UserError: there is no such repository, revision or file, it is not said which of several files is meant, or the
            hub cannot be reached and the cache lacks it.
    """
    name = parse(text)
    with one_line(f"{text} is not in the hub's cache and cannot be downloaded"):
        check_installed(text, "huggingface_hub", "huggingface_hub", extra="hub")
        from huggingface_hub import errors, hf_hub_download

        try:
            file, cached = (name.file, False) if name.file else _usual_file(name)
            return Path(hf_hub_download(name.repo, file, revision=name.revision, local_files_only=cached))
        except errors.GatedRepoError as error:
            raise UserError(f"{text}: its owner wants conditions accepted on its page; then set HF_TOKEN") from error
        except errors.RepositoryNotFoundError as error:
            raise UserError(
                f"{text}: the hub has no repository {name.repo}, or it is private and HF_TOKEN gives no access"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(f"{text}: {name.repo} has no revision {name.revision}") from error
        except errors.RemoteEntryNotFoundError as error:
            raise UserError(f"{text}: {name.repo} has no file {name.file} in that revision") from error


def _usual_file(name: HubName) -> tuple[str, bool]:
    """The file to take from a repository, and whether that is known from the cache because the hub does not answer."""
    from huggingface_hub import HfApi, errors

    wrong = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    try:
        files = HfApi().model_info(name.repo, revision=name.revision).siblings or ()
        return choose(name.text, (file.rfilename for file in files)), False
    except (*wrong, UserError):
        raise
    except Exception:  # no network, one that is forbidden, or a server that is ill: each has an error of its own
        if cached := _cached_files(name):
            return choose(name.text, cached), True
        raise


def _cached_files(name: HubName) -> list[str]:
    """The files of a revision that the hub's cache holds."""
    from huggingface_hub import constants, errors, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except errors.CacheNotFound:
        return []
    wanted = name.revision or "main"
    return [
        file.file_path.relative_to(revision.snapshot_path).as_posix()
        for repo in repos
        if repo.repo_type == "model" and repo.repo_id == name.repo
        for revision in repo.revisions
        if wanted in revision.refs or wanted == revision.commit_hash
        for file in revision.files
    ]


def choose(text: str, files: Iterable[str]) -> str:
    """The file that is meant where none is named: ``model.safetensors``, or else the only one with weights.

    Raises:
        UserError: there is none, or there are several.
    """
    weights = sorted(file for file in files if Path(file).suffix in SUFFIXES and _is_plain(file))
    if USUAL_FILE in weights:
        return USUAL_FILE
    if not weights:
        raise UserError(f"{text} holds no {' or '.join(SUFFIXES)} file")
    if len(weights) > 1:
        named = ", ".join([*weights[:MOST_NAMED], *(["..."] if len(weights) > MOST_NAMED else [])])
        raise UserError(f"{text} holds several files of weights, {named}: name one, such as {text}:{weights[0]}")
    return weights[0]
