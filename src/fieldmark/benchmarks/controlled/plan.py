"""Which controlled settings there are, and what is asked of each (RaVL section 3.2, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from fieldmark.benchmarks.controlled.captioned import COCO, open_coco
from fieldmark.benchmarks.controlled.small_encoder import NAME
from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.suite import Request
from fieldmark.core.errors import UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.controlled.canvases import PLACES
from fieldmark.data.controlled.coco_settings import draw_settings as draw_coco_settings
from fieldmark.data.controlled.features import FEATURES
from fieldmark.data.controlled.images import Setting
from fieldmark.data.controlled.objects import DOMAINS
from fieldmark.models.load import load_encoder

DISCOVERY, MITIGATION = "controlled discovery", "controlled mitigation"
# How many classes a label set has; RaVL has 10 on digits and garments, 2 to 5 on COCO.
_WIDTHS: Mapping[str, tuple[int, ...]] = {"digits": (5,), "fashion": (5,), "stamps": (2, 3)}
_CORRELATIONS = (0.9, 0.95, 0.99)
_SIZES = (0.5, 0.7, 0.9)
AMOUNTS: Mapping[str, Any] = {
    "settings": 60,
    "mitigations": 12,
    "least_precision": 0.6,
    "tuning": 1200,
    "evaluation": 600,
    "epochs": 3,
    "batch_size": 64,
    "learning_rate": 2e-3,
}


class Variant(NamedTuple):
    """A way of training a tie away: a key of `MITIGATIONS`, and what is changed of it.

    Attributes:
        method: the key.
        reduction: of the region terms.
    """

    method: str
    reduction: Literal["mean", "sum"] = "mean"


# Two of them are also ways of discovering, whose rows stand beside these.
VARIANTS: Mapping[str, Variant] = {
    "upsampled": Variant("upsampled"),
    "vl-erm": Variant("vl-erm"),
    "vl-gdro": Variant("vl-gdro"),
    "spurious-aware-mitigation": Variant("spurious-aware"),
    "ravl-mitigation": Variant("ravl"),
    # The sum over the batch is equation 3; by default here it is the mean, as in ViLLA.
    "ravl-sum-mitigation": Variant("ravl", reduction="sum"),
    "ravl-balanced-mitigation": Variant("ravl-balanced"),
}
# Not part of a job that does not ask for them: all images are trained on, to the last epoch.
_EARLY_STOPPING = ("validation_share", "patience")
# Amounts that may be 0, and that need not be whole.
_FREE = ("mitigations", "least_precision", "validation_share")
_FRACTIONS = ("least_precision", "learning_rate", "validation_share")
_EXAMPLES = {**AMOUNTS, "validation_share": 0.05, "patience": 10}


def draw_settings(domain: str, *, count: int, seed: int = 0) -> list[Setting]:
    """Draw settings of a drawn domain: every feature in turn, all else at random.

    Args:
        domain: a key of `DOMAINS`.
        count: how many.
        seed: of the draw; the first settings of a longer list are the same.

    Example:
        >>> [setting.feature for setting in draw_settings("digits", count=2)]
        ['red-rectangle', 'blue-rectangle']
    """
    random = generator(seed, "controlled settings", domain)
    classes, features = DOMAINS[domain].classes, list(FEATURES)
    settings = []
    for number in range(count):
        width = int(random.choice(_WIDTHS[domain]))
        chosen = tuple(str(name) for name in random.choice(classes, width, replace=False))
        settings.append(
            Setting(
                domain=domain,
                feature=features[number % len(features)],
                # Half of the settings have the feature anywhere.
                place=str(random.choice(PLACES)) if number % 2 else "any",
                size=float(random.choice(_SIZES)),
                classes=chosen,
                target=chosen[int(random.integers(width))],
                correlation=float(random.choice(_CORRELATIONS)),
                draw=number,
            )
        )
    return settings


def plan_ravl(request: Request) -> list[Job]:
    """Plan every setting's discovery, and the mitigation of some.

    Args:
        request: its data sets are domains; its budget's `study` may have other amounts than
            `AMOUNTS`, and `validation_share` and `patience` for early stopping.

    Returns:
        All discoveries, then all mitigations.

    Raises:
        UsageError: a data set that is no domain, an amount that is no number, or COCO without its
            files or an encoder.
        NotApplicableError: COCO bears fewer settings; the message says how many.
    """
    amounts = _read_amounts(request.budget.study)
    jobs = []
    for domain in request.datasets:
        drawn = _draw(request, domain, count=int(amounts["settings"]))
        jobs += [_plan(request, one, DISCOVERY, amounts=amounts) for one in drawn]
        # Every feature comes about as often as in the whole.
        step = max(1, len(drawn) // max(1, int(amounts["mitigations"])))
        few = drawn[::step][: int(amounts["mitigations"])]
        jobs += [_plan(request, one, MITIGATION, amounts=amounts) for one in few]
    return sorted(jobs, key=lambda job: job.measure)


def _read_amounts(study: Mapping[str, Any]) -> dict[str, Any]:
    amounts = {key: study.get(key, value) for key, value in AMOUNTS.items()}
    amounts |= {key: study[key] for key in _EARLY_STOPPING if key in study}
    for key, value in amounts.items():
        kinds = (int, float) if key in _FRACTIONS else (int,)
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not number or not (value > 0 or (value == 0 and key in _FREE)):
            kind = "number" if key in _FRACTIONS else "whole number"
            least = "0 or more" if key in _FREE else "above 0"
            raise UsageError(
                f"study.{key}={value} is no {kind} {least}",
                mend=f"write a {kind} such as {_EXAMPLES[key]}",
            )
    return amounts


def _draw(request: Request, domain: str, *, count: int) -> list[Setting]:
    if domain in DOMAINS:
        return draw_settings(domain, count=count)
    if domain != COCO:
        known = ", ".join([*DOMAINS, COCO])
        raise UsageError(f"{domain!r} is no domain of controlled settings", mend=f"known: {known}")
    if request.root is None:
        raise UsageError("the domain coco needs COCO's files", mend="give their folder by --root")
    if request.models[0] == NAME:
        raise UsageError(
            "the domain coco has no small encoder",
            mend="give one by --model, such as open_clip:RN50/openai",
        )
    encoder = load_encoder(request.models[0])
    views = [open_coco(request.root, tied=tied, encoder=encoder) for tied in (True, False)]
    return list(draw_coco_settings(*views, count=count, seed=0))


def _plan(request: Request, setting: Setting, measure: str, *, amounts: Mapping[str, Any]) -> Job:
    arguments = {k: v for k, v in amounts.items() if k not in ("settings", "mitigations")}
    if measure == MITIGATION:
        arguments["variants"] = list(VARIANTS)
    return Job(
        task=TaskRef(dataset=setting.domain, root=request.root, options=write_setting(setting)),
        model=request.models[0],
        measure=measure,
        arguments={**arguments, "seeds": list(request.seeds)},
        suite=request.suite,
        setting=setting.name,
    )


def write_setting(setting: Setting) -> dict[str, Any]:
    """Return a setting as JSON values."""
    return {**{k: v for k, v in vars(setting).items() if k != "domain"},
            "classes": list(setting.classes)}  # fmt: skip


def read_setting(ref: TaskRef) -> Setting:
    """Return the setting that a job is about."""
    options: Mapping[str, Any] = ref.options
    classes: Sequence[str] = options["classes"]
    return Setting(domain=ref.dataset, **{**options, "classes": tuple(classes)})
