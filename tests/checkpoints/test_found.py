"""What readers hand over: no two share their notes, and the state can be emptied."""

from ctm_fast.checkpoints.found import Found
from ctm_fast.models import SongConfig
from ctm_fast.precond import Preconditioning


def test_each_has_its_own_notes_and_provenance():
    needed = ("edm", SongConfig(), "edm", {}, Preconditioning(), "denoiser", 0.002, 80.0)
    one, other = Found(*needed), Found(*needed)
    one.notes.append("a guess")
    one.provenance["step"] = 3
    assert other.notes == [] and other.provenance == {}
