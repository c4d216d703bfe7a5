"""The model card of a published encoder: what its checkpoint says of itself, as Markdown with a YAML head.

Anybody's checkpoint may say anything: what comes from it stands in code spans, of one line and of limited length.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from fps_pretrain.common import yaml_file
from fps_pretrain.models.architectures import is_cifar_resnet

HOME = "https://arxiv.org/abs/2206.11488"
"""Where the method is described."""

MAX_LENGTH = 200
"""Characters of a value that are shown."""


def model_card(content: Mapping[str, Any], name: str, licence: str | None) -> str:
    """The card of an encoder checkpoint.

    Args:
        content: the checkpoint's (``checkpoint`` describes it), its provenance made plain.
        name: as ``--init`` takes it, ``hf:OWNER/NAME``.
        licence: the hub's identifier of a license, such as mit; None to name none.
    """
    said = content["provenance"]
    head: dict[str, Any] = {"pipeline_tag": "image-feature-extraction", "tags": ["fractal-pretraining", "encoder"]}
    if licence:
        head["license"] = licence
    parts = [
        f"---\n{yaml_file.dump(head)}---",
        f"# {name.partition('/')[2].partition('@')[0]}",
        "An image encoder that was pre-trained by self-supervision on pairs of synthetic fractal images, without any "
        f"photograph: [Fractal Pair Similarity]({HOME})."
        if _is_of_fractals(said)
        else "An image encoder that was pre-trained by self-supervision.",
        _table("| | |", _facts(content, said)),
        _probe(said.get("probe")),
        _use(content, name),
        _section("Options of the pre-training", said.get("config")),
        _section("Versions", said.get("versions")),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _is_of_fractals(said: Mapping[str, Any]) -> bool:
    recipe = said.get("recipe")
    return isinstance(recipe, dict) and recipe.get("source") == "fractals"


def _facts(content: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    pairs = said.get("pairs_seen")
    return {
        "architecture": f"{content['arch']}, width {content['width']}",
        "method": said.get("method"),
        "pairs seen": f"{pairs:,}" if type(pairs) is int else None,
        "image size": _size(said),
        "seed": said.get("seed"),
        "precision": said.get("precision"),
        "stored in": said.get("stored_in"),
        "digest of the weights (SHA-256)": said.get("digest"),
    }


def _size(said: Mapping[str, Any]) -> int | None:
    recipe = said.get("recipe")
    size = recipe.get("size") if isinstance(recipe, dict) else None
    return size if type(size) is int else None


def _probe(probe: object) -> str:
    """The accuracies of the frozen features, beside those of random weights."""
    if not isinstance(probe, dict):
        return ""
    rows = {
        _code(name.replace("_", " ")): f"{value:.1%}"
        + (f" (random weights: {start:.1%})" if isinstance(start := probe.get(f"{name}_random"), float) else "")
        for name, value in probe.items()
        if isinstance(value, float) and not name.endswith("_random")
    }
    if not rows:
        return ""
    words = {"bank": "labelled images", "queries": "others that are classified"}
    counts = [f"{probe[name]:,} {what}" for name, what in words.items() if type(probe.get(name)) is int]
    about = f" ({', '.join(counts)})" if counts else ""
    return f"## Accuracy of its frozen features\n\nMeasured at the end of the pre-training{about}.\n\n" + _table(
        "| probe | accuracy |", rows
    )


def federation_command(content: Mapping[str, Any], init: str) -> str:
    """The command that starts a federation from an encoder checkpoint, which ``--init`` finds as ``init``."""
    flags = f"--init {shlex.quote(init)} --arch {content['arch']}"
    if content["width"] != 1:
        flags += f" --width {content['width']}"
    if not is_cifar_resnet(content["arch"]):
        flags += f" --image-size {_usual_size(content)}"
    return f"python run_fl.py {flags}"


def _usual_size(content: Mapping[str, Any]) -> int:
    return _size(content["provenance"]) or 32


def _use(content: Mapping[str, Any], name: str) -> str:
    size = _usual_size(content)
    return f"""## How to use it

As the start of a federation:

```
{federation_command(content, name)}
```

In your own code:

```python
import torch
from fps_pretrain import load_encoder

encoder = load_encoder("{name}")
features = encoder(torch.zeros(2, 3, {size}, {size}))  # (2, encoder.feature_dim); normalise your images first
```

The file is safetensors: `safetensors.torch.load_file` reads its weights without this project."""


def _section(title: str, values: object) -> str:
    if not isinstance(values, dict) or not values:
        return ""
    return f"## {title}\n\n" + _table("| | |", {_code(name): value for name, value in values.items()})


def _table(head: str, values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_code(value)} |" for name, value in values.items() if value not in (None, [], {})]
    return "\n".join([head, "|---|---|", *rows])


def _code(value: object) -> str:
    """A value as a code span in a cell of a table."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = "".join(c if c.isprintable() else " " for c in text).replace("`", "'").replace("|", "/")
    text = " ".join(text.split())
    return f"`{text if len(text) <= MAX_LENGTH else text[:MAX_LENGTH] + '...'}`" if text else ""
