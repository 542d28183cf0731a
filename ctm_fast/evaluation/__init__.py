"""Offline quality of images beside the real/real row, and the page that shows it."""

from .classifier import SmallClassifier as SmallClassifier
from .classifier import trained_classifier as trained_classifier
from .curves import Curve as Curve
from .curves import Figure as Figure
from .environment import environment as environment
from .pictures import class_ordered as class_ordered
from .pictures import displayed as displayed
from .pictures import grid_png as grid_png
from .protocol import OfflineProtocol as OfflineProtocol
from .protocol import evaluate_offline as evaluate_offline
from .report import Comparison as Comparison
from .report import Grid as Grid
from .report import MetricRow as MetricRow
from .report import ReportContent as ReportContent
from .report import Trajectory as Trajectory
from .report import write_report as write_report
