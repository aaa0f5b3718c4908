"""`fieldmark export`: models and results, as the tools that a user already has want them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say
from fieldmark.core.errors import RunExistsError, UsageError

app = typer.Typer(add_completion=False)

LIBRARIES = ("open_clip", "hf")
HUB_OPTIONS = ("--repo", "--library", "--figures", "--licence", "--push", "--private")
TRACKERS = ("tensorboard", "mlflow", "wandb")
OPENED = {
    "open_clip": "open_clip.create_model_and_transforms({source!r})",
    "hf": "transformers.AutoModel.from_pretrained({source!r})",
}
Target = Literal[
    "open_clip", "hf", "hub", "tensorboard", "mlflow", "wandb", "clip_benchmark", "fiftyone"
]


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a run, or for open_clip, hf and hub any encoder that --model takes."
        ),
    ],
    out: options.Out,
    to: Annotated[
        Target,
        typer.Option(
            help="A model: open_clip (`local-dir:OUT`), hf (transformers, `from_pretrained`), or "
            "hub (either, with a model card, ready to upload). A run's results: tensorboard, "
            "mlflow, wandb (offline unless WANDB_MODE says so), clip_benchmark (its JSON), or "
            "fiftyone (an import folder)."
        ),
    ] = "open_clip",
    repo: Annotated[
        str | None,
        typer.Option(help="hub: the repository, ORG/NAME.", show_default=False),
    ] = None,
    library: Annotated[
        Literal["open_clip", "hf"] | None,
        typer.Option(help="hub: the layout; the encoder's own by default.", show_default=False),
    ] = None,
    figures: Annotated[
        list[Path] | None,
        typer.Option(
            help="hub: run of evaluate, or audit, of these weights, for the card; may be repeated.",
            show_default=False,
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="hub: of the model; the base model's by default.", show_default=False),
    ] = None,
    push: Annotated[
        bool, typer.Option("--push", help="hub: upload the folder (HF_TOKEN, HF_ENDPOINT).")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="hub: make a new repository private.")
    ] = False,
    project: Annotated[
        str, typer.Option(help="Trackers: the project or experiment that the run goes into.")
    ] = "fieldmark",
) -> None:
    """Write a model for its own library or the hub, or a run's results for another tool."""
    given = (repo, library, figures, licence, push, private)
    misplaced = [name for name, value in zip(HUB_OPTIONS, given, strict=True) if value]
    if to != "hub" and misplaced:
        raise UsageError(f"{misplaced[0]} is for --to hub alone", mend="leave it out")
    if to in LIBRARIES:
        _export_model(model, out, library=to)
    elif to == "hub":
        _export_to_hub(
            model,
            out,
            repo=repo,
            library=library,
            figures=figures or [],
            licence=licence,
            push=push,
            private=private,
        )
    elif to in TRACKERS:
        _export_to_tracker(Path(model), out, kind=to, project=project)
    elif to == "clip_benchmark":
        _export_results(Path(model), out)
    else:
        _export_predictions(Path(model), out)


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunExistsError("holds other files", where=out, mend="choose an empty --out")


def _export_model(model: str, out: Path, *, library: str) -> None:
    from fieldmark.benchmarks.export.hub import check_library
    from fieldmark.models.load import load_encoder

    _require_empty(out)
    encoder = load_encoder(model, device="cpu")
    check_library(encoder, library, model=model)
    encoder.save(out)
    source = f"local-dir:{out}" if library == "open_clip" else str(out)
    say(f"done: {OPENED[library].format(source=source)}")


def _export_to_hub(
    model: str,
    out: Path,
    *,
    repo: str | None,
    library: Literal["open_clip", "hf"] | None,
    figures: list[Path],
    licence: str | None,
    push: bool,
    private: bool,
) -> None:
    from fieldmark.benchmarks.export.hub import export_to_hub

    if repo is None:
        raise UsageError("--to hub needs a repository", mend="add --repo ORG/NAME")
    if private and not push:
        raise UsageError("--private is of an upload", mend="add --push")
    _require_empty(out)
    done = export_to_hub(
        model,
        repo=repo,
        out=out,
        library=library,
        figures=figures,
        licence=licence,
        push=push,
        private=private,
    )
    if done.licence == "unknown":
        say("the licence of the base model is not known here; name it with --licence")
    source = f"hf-hub:{repo}" if done.library == "open_clip" else repo
    if done.address:
        say(f"done: {done.address}, {OPENED[done.library].format(source=source)}")
    else:
        say(f"done: {out}; look at {out / 'README.md'}, then `hf upload {repo} {out}` or --push")


def _export_to_tracker(run: Path, out: Path, *, kind: str, project: str) -> None:
    from fieldmark.benchmarks.export.tracked import export_to_tracker

    export_to_tracker(run, kind=kind, out=out, project=project)
    then = {
        "tensorboard": f"tensorboard --logdir {out}",
        "mlflow": f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {out}",
        "wandb": f"wandb sync {out}/wandb/offline-run-*",
    }[kind]
    say(f"done: {then}")


def _export_results(run: Path, out: Path) -> None:
    from fieldmark.benchmarks.export.clip_benchmark import export_clip_benchmark

    if out.suffix == ".json" and out.exists():
        raise RunExistsError("is there already", where=out, mend="choose another --out")
    if out.suffix != ".json":
        _require_empty(out)
    paths = export_clip_benchmark(run, out=out)
    say(f"done: {len(paths)} file{'s' * (len(paths) > 1)}, {paths[0]}")


def _export_predictions(run: Path, out: Path) -> None:
    from fieldmark.benchmarks.export.fiftyone import export_fiftyone, write_import

    fields = export_fiftyone(run, out=out)
    say(f"done:\n{write_import(out.resolve(), fields)}")
