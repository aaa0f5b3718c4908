"""Trackers of other tools behind one small protocol, each imported on use."""

from fieldmark.benchmarks.tracking.protocol import Metrics, Tracker
from fieldmark.benchmarks.tracking.trackers import TRACKERS, TrackedRun, open_tracker

__all__ = ["TRACKERS", "Metrics", "TrackedRun", "Tracker", "open_tracker"]
