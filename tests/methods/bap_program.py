"""Train FakeEncoder on the material in a folder, in a process of its own or under torchrun."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from safetensors.torch import save_file

from fieldmark.methods.bap.pretrain import Pretraining, pretrain
from fieldmark.methods.processes import join_processes
from fieldmark.testing import FakeEncoder
from tests.methods.bap_material import CONFIG, open_compositor


def main(folder: Path, name: str, slowly: bool) -> None:
    with join_processes() as processes:
        run = Pretraining(
            encoder=FakeEncoder(),
            compositor=open_compositor(folder),
            config=CONFIG,
            seed=0,
            folder=folder / name,
            cache=folder / f"{name}-anchors",
            processes=processes,
            on_step=(lambda _: time.sleep(0.3)) if slowly else None,
        )
        trained = pretrain(dataclasses.replace(run)).trained
        if processes.first:
            save_file(trained.tower.state_dict(), folder / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "slowly" in sys.argv)
