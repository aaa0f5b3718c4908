"""The options that several verbs share, spelled alike in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Encoder: open_clip:ARCH/TAG, hf:ORG/REPO, local-dir:PATH, packaged:NAME, "
        "or the folder of a run. NAME@SIDE takes another input size.",
        show_default=False,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Images with labels: a CSV or Parquet table, a folder of folders, a built data set, "
        "the name of a data set, or one of another library: hf-dataset:PATH, torchvision:CLASS, "
        "wds:PATTERN.",
        show_default=False,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Folder that a table's paths, or a data set's files, lie in."),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", help="Folder for the run; must not exist or be empty.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The one seed of the run.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="How many seeds: 0, 1, ...")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run in --out.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings.", show_default=False)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, key=value; may be repeated.", show_default=False),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable", help="Leave out images that cannot be read, and record which."
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images in one forward.")]
PrecisionName = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option("--precision", help="Of the weights; auto is bf16 where the device has it."),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Where the work runs: local; ray for several processes here, or the cluster that "
        "RAY_ADDRESS names; ray://HOST:PORT. The figures are the same.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Processes of --engine ray, each with this process's number of threads "
        "(OMP_NUM_THREADS). Default: as many as there are CPUs for.",
        show_default=False,
    ),
]
ClassNames = Annotated[
    list[str] | None,
    typer.Option(
        "--class-name",
        help="Name of a class for the prompts, once for each class in order. Default: the table's.",
        show_default=False,
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        help="Folder of masks, named as the images. Default: the table's column 'mask'.",
        show_default=False,
    ),
]
Templates = Annotated[
    str,
    typer.Option("--templates", help="Prompt ensemble: default (40), people (3), or a file."),
]
