"""What `fieldmark discover` was asked for, every word understood before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fieldmark.benchmarks.arguments import list_arguments
from fieldmark.benchmarks.discovery_search import choose_selection
from fieldmark.benchmarks.runs import choose_templates
from fieldmark.core.errors import UsageError
from fieldmark.data.columns import read_columns
from fieldmark.discovery.clustering import Range
from fieldmark.discovery.ravl import DiscoveryConfig
from fieldmark.discovery.region_embeddings import Way
from fieldmark.discovery.region_sources import RegionSource, parse_region_source
from fieldmark.discovery.vocabulary import read_vocabulary
from fieldmark.metrics.cluster_gaps import PERMUTATIONS
from fieldmark.models.embed import Precision

DEFAULT_REGIONS = "scales:2,3"
_CORNERS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, kw_only=True)
class DiscoveryRequest:
    """What to look at, and how.

    Attributes:
        model: URI of the encoder.
        data: the images, as `open_table` reads them.
        out: folder of the run.
        root: folder that a table's paths lie in.
        split: what to look at; `val` by default, all images of a table without splits.
        regions: as `parse_region_source` reads it; by default the boxes of the table where it has
            the columns x0, y0, x1 and y1, else `scales:2,3`.
        way: how regions are embedded; the encoder's own by default.
        clusters: how many, or the lowest and the highest number; from 2|Y| to 5|Y| by default.
        method: a name out of `DISCOVERERS`.
        selection: `paper` or `reference`: which clusters RaVL keeps.
        threshold: least influence, in place of the selection's own.
        vocabulary: file of words, one a line; fieldmark's own by default.
        class_names: names for the prompts; the table's own by default.
        templates: `default`, `people`, or a file with one template a line.
        level: at which a candidate counts as more than chance, in (0, 1).
        permutations: behind each p-value.
        seed: of the clustering and of the permutations.
        nearest: regions and words of each candidate.
        gallery: pictures in a strip of the page at most.
        batch_size: images or regions in one forward.
        precision: of the weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        skip_unreadable: leave out images that cannot be read instead of stopping.
        resume: go on with the unfinished run in `out`.
    """

    model: str
    data: str
    out: Path
    root: Path | None = None
    split: str | None = None
    regions: str | None = None
    way: Way | None = None
    clusters: Range | None = None
    method: str = "ravl"
    selection: str = "paper"
    threshold: float | None = None
    vocabulary: Path | None = None
    class_names: tuple[str, ...] = ()
    templates: str = "default"
    level: float = 0.05
    permutations: int = PERMUTATIONS
    seed: int = 0
    nearest: int = 10
    gallery: int = 12
    batch_size: int = 64
    precision: Precision = "auto"
    device: str = "auto"
    skip_unreadable: bool = False
    resume: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return as JSON values what decides the figures."""
        clusters = self.clusters if not self.clusters else write_clusters(self.clusters)
        return {**list_arguments(self), "clusters": clusters}


def parse_clusters(text: str) -> Range:
    """Read how many clusters to look for: `12`, or `4-10` for the best of a range.

    Raises:
        UsageError: it is neither.

    Example:
        >>> parse_clusters("12"), parse_clusters("4-10")
        (12, (4, 10))
    """
    low, dash, high = text.strip().partition("-")
    try:
        found = (int(low), int(high)) if dash else int(low)
    except ValueError:
        found = 0
    least, most = found if isinstance(found, tuple) else (found, found)
    if not 1 <= least <= most:
        raise UsageError(f"{text!r} is no number of clusters", mend="give 12, or a range like 4-10")
    return found


def write_clusters(clusters: Range) -> str:
    """Write what `parse_clusters` reads.

    Example:
        >>> write_clusters((4, 10))
        '4-10'
    """
    return str(clusters) if isinstance(clusters, int) else f"{clusters[0]}-{clusters[1]}"


def choose_regions(data: str) -> str:
    """Return where regions come from by default: the boxes of a table, else a grid.

    Example:
        >>> choose_regions("waterbirds")
        'scales:2,3'
    """
    path = Path(data)
    if path.is_file():
        columns = read_columns(path)
        if all(columns.find(name) is not None for name in _CORNERS):
            return f"boxes:{data}"
    return DEFAULT_REGIONS


class Plan(NamedTuple):
    """A request whose words were all understood.

    Attributes:
        request: the words.
        source: where regions come from.
        words: of the vocabulary.
        templates: of the prompts.
        config: how clusters are judged.
    """

    request: DiscoveryRequest
    source: RegionSource
    words: tuple[str, ...]
    templates: tuple[str, ...]
    config: DiscoveryConfig


def make_plan(request: DiscoveryRequest) -> Plan:
    """Understand every word before anything is loaded or written.

    Raises:
        UsageError: an option is out of its range or unknown.
        InputError: a file of words or templates cannot be read.
    """
    if not 0 < request.level < 1:
        raise UsageError(f"level {request.level:g} is not between 0 and 1", mend="give 0.05")
    if request.gallery < 0:
        raise UsageError(f"gallery {request.gallery} is below 0", mend="give 0 for no pictures")
    selection = choose_selection(
        request.selection, method=request.method, threshold=request.threshold
    )
    return Plan(
        request=request,
        source=parse_region_source(request.regions or choose_regions(request.data)),
        words=read_vocabulary(request.vocabulary),
        templates=tuple(choose_templates(request.templates)),
        config=DiscoveryConfig(
            selection=selection,
            nearest=request.nearest,
            seed=request.seed,
            permutations=request.permutations,
        ),
    )
