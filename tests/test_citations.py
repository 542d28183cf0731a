"""Every method has its paper, and BibTeX is well formed."""

import re

import pytest

import ctm_fast
from ctm_fast.citations import CITED, PAPERS, cite
from ctm_fast.losses import OBJECTIVES
from ctm_fast.sampler import Sampler
from ctm_fast.sampler.methods import SAMPLERS
from ctm_fast.wrappers import Guided

from .sampler.worlds import World


@pytest.mark.parametrize("name", [*OBJECTIVES.names(), *SAMPLERS.names(), "guided", "routed"])
def test_everything_has_an_entry(name: str) -> None:
    text = ctm_fast.cite(name)
    assert re.search(r"@misc\{\w+,\n", text)
    assert re.search(r"eprint = \{\d{4}\.\d{4,5}\}", text)
    assert text.count("{") == text.count("}")


def test_entries() -> None:
    assert "2406.14548" in cite("ect")
    assert "Consistency Models Made Easy" in cite("ECT")
    sct = cite("sct")
    assert sct.index("2410.18958") < sct.index("2302.00670")
    assert sct.count("@misc") == 3
    assert {key for keys in CITED.values() for key in keys} == set(PAPERS)
    assert len({paper.arxiv for paper in PAPERS.values()}) == len(PAPERS)


def test_objects_are_cited_by_their_class() -> None:
    for name in OBJECTIVES.names():
        assert cite(OBJECTIVES[name]) == cite(OBJECTIVES[name]()) == cite(name)
    world = World("consistency")
    guided = Guided(world, World("consistency"), weight=1.5)
    assert cite(Sampler(world, steps=2)) == cite("cm_multistep")
    assert cite(Sampler(guided, method="phased", edges=[1.0])).count("@misc") == 4


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="nothing to cite for 'dall-e'"):
        cite("dall-e")
