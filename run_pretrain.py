"""Pre-train an encoder on fractal pairs: ``python run_pretrain.py --method simsiam``.

``python run_pretrain.py preview`` writes pairs to look at.
"""

from __future__ import annotations

import sys

from fps_pretrain.common import cli
from fps_pretrain.config.pairs import PreviewConfig
from fps_pretrain.config.pretrain import PretrainConfig

PROG = cli.program("run_pretrain.py", "fps-pretrain")


def _train(config: PretrainConfig) -> int:
    from fps_pretrain.training.run import train

    return train(config)


def _preview(config: PreviewConfig) -> int:
    from fps_pretrain.pairs.gallery import preview

    return preview(config)


def main(argv: list[str]) -> int:
    """Run the command line ``argv`` (without the program's name); returns the exit code."""
    if argv[:1] == ["preview"]:
        prog = f"{PROG} preview"
        return cli.run(prog, _preview, cli.parse(PreviewConfig, prog, argv[1:]))
    return cli.run(PROG, _train, cli.parse(PretrainConfig, PROG, argv))


def console() -> int:
    """Carry out the process's command line; returns the exit code."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(console())
