from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from fieldmark.core.errors import InputError, UsageError
from fieldmark.discovery.detectors import propose_by_detector

# The second overlaps the first by 0.9, the third is elsewhere, the fourth has no area.
BOXES = [[0, 0, 10, 10], [0, 0, 10, 9], [10, 10, 20, 20], [5, 5, 5, 9]]


class Fixed(nn.Module):
    """A detector that sees the same boxes everywhere, and keeps what it was shown."""

    def __init__(self, *, scores=(0.6, 0.9, 0.5, 1.0), labels=(1, 2, 1, 1)):
        super().__init__()
        self.scores, self.labels = scores, labels
        self.shown = torch.zeros(0)

    def forward(self, images):
        [self.shown] = images
        return [
            {
                "boxes": torch.tensor(BOXES, dtype=torch.float32),
                "scores": torch.tensor(self.scores),
                "labels": torch.tensor(self.labels),
            }
        ]


IMAGE = Image.new("RGB", (24, 20), "white")


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [1, 2]),
        ({"by_class": True}, [1, 0, 2]),
        ({"overlap": 0.95}, [1, 0, 2]),
        ({"least_score": 0.6}, [1]),
        ({"overlap": 0.95, "most": 2}, [1, 0]),
        ({"least_score": 1.0}, []),
    ],
)
def test_boxes_come_by_score_without_those_that_overlap(options, kept):
    found = propose_by_detector(Fixed().eval(), **options)(IMAGE)
    assert found.tolist() == [BOXES[row] for row in kept]
    assert found.shape == (len(kept), 4)


def test_the_detector_is_shown_floats_of_nought_to_one():
    detector = Fixed().eval()
    propose_by_detector(detector)(IMAGE)
    assert detector.shown.shape == (3, 20, 24)
    assert detector.shown.unique().tolist() == [1.0]


def test_what_is_no_detector_is_one_clear_line():
    with pytest.raises(UsageError, match="is in training mode"):
        propose_by_detector(Fixed())
    with pytest.raises(UsageError, match="overlap 0 or most 100 is out of its range"):
        propose_by_detector(Fixed().eval(), overlap=0)
    with pytest.raises(InputError, match="Identity did not give boxes, scores and labels"):
        propose_by_detector(nn.Identity().eval())(IMAGE)
