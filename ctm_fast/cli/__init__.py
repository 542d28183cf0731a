"""The command line: `ctm-fast demo | train | sample | evaluate | doctor`."""

from .main import main as main
