"""Publish an encoder on the Hugging Face hub: python -m fps_pretrain.publish checkpoints/fps_r20.pt OWNER/NAME.

The repository, made if there is none, gets the weights as model.safetensors and a model card, made of what the
checkpoint says of its pre-training. Names of folders on this machine are left out. Who you are is said by
"hf auth login" or HF_TOKEN.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fps_pretrain.common import cli
from fps_pretrain.common.errors import UserError, check_installed, one_line
from fps_pretrain.models import hub

PROG = "fps_pretrain.publish"


@dataclass(frozen=True)
class Command:
    """What the command line says."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Encoder checkpoint of run_pretrain.py, or the name of a shipped one."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """Where to."""
    private: bool = False
    """Only you and your organisation may see it."""
    revision: str | None = None
    """Branch to write to, made if there is none (default: main)."""
    license: str | None = None
    """License that the card names, by the hub's identifier, such as mit (default: the card names none)."""

    def __post_init__(self) -> None:
        if not hub.REPOSITORY.fullmatch(self.repository):
            raise UserError(f"{self.repository} is not of the form OWNER/NAME")

    @property
    def name(self) -> str:
        """As ``--init`` takes it."""
        return f"{hub.PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def main(command: Command) -> int:
    """Publish; returns the exit code."""
    from fps_pretrain.models.card import federation_command

    hub.parse(command.name)
    content = readable(command.checkpoint)
    upload(command, content)
    print(f"published; start a federation: {federation_command(content, command.name)}")
    return 0


def readable(checkpoint: str) -> dict[str, Any]:
    """An encoder checkpoint's content, checked as for loading, without the names of this machine's folders.

    Raises:
        UserError: it is no encoder checkpoint, or one that cannot be loaded.
    """
    from fps_pretrain.models import shipped
    from fps_pretrain.models.checkpoint import is_encoder_file, load_encoder
    from fps_pretrain.models.provenance import plain_provenance
    from fps_pretrain.models.tensor_file import read_file

    path = shipped.resolve(checkpoint)
    content = read_file(path)
    if not is_encoder_file(content):
        raise UserError(f"{path} is no encoder checkpoint of run_pretrain.py: it does not say how it was made")
    load_encoder(path)
    return {**content, "provenance": without_folders(plain_provenance(content.get("provenance")))}


PATHS = ("codes", "init", "output", "run_dir")
"""Options whose value, without a kind before it, is a path."""

KINDS_OF_PATHS = ("folder", "parquet", "shuffled")
"""What stands before a path."""


def without_folders(value: Any, option: str = "") -> Any:
    """Plain values in which a path is its last part: what others need not know.

    Args:
        value: the value, of which those in lists and mappings are taken, too.
        option: the name of what it is the value of.
    """
    if isinstance(value, dict):
        return {name: without_folders(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item, option) for item in value]
    if isinstance(value, str):
        kind, colon, path = value.rpartition(":")
        named = kind in KINDS_OF_PATHS or (option in PATHS and not kind)
        outside = Path(path).is_absolute() or path.startswith(("~", "./", "../"))
        return f"{kind}{colon}{Path(path).name}" if named or outside else value
    return value


def upload(command: Command, content: dict[str, Any]) -> None:
    """Make the repository, and write weights and card to it in one commit.

    Raises:
        UserError: the hub cannot be reached or refuses, or --private meets a repository that is public.
    """
    from fps_pretrain.models import safetensors_file
    from fps_pretrain.models.card import model_card

    card = model_card(content, command.name, command.license)
    with one_line(f"cannot publish {command.repository}"), tempfile.TemporaryDirectory() as folder:
        check_installed("publishing", "huggingface_hub", "huggingface_hub", extra="hub")
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError

        weights = Path(folder, hub.USUAL_FILE)
        safetensors_file.write(weights, content)
        files = [CommitOperationAdd(hub.USUAL_FILE, str(weights)), CommitOperationAdd("README.md", card.encode())]
        api = HfApi()
        try:
            api.create_repo(command.repository, private=command.private or None, exist_ok=True)
            if command.private and not api.model_info(command.repository).private:
                raise UserError(f"{command.repository} exists and is public: leave out --private, or name another one")
            if command.revision:
                api.create_branch(command.repository, branch=command.revision, exist_ok=True)
            message = f"Encoder {str(content['provenance'].get('digest', ''))[:12]}"
            api.create_commit(command.repository, files, commit_message=message, revision=command.revision)
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in (401, 403):
                raise UserError(
                    f"the hub does not let you write to {command.repository}: hf auth login, or set HF_TOKEN"
                ) from error
            raise


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(Command, PROG, description=__doc__ or "")))
