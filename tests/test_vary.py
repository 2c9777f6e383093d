"""Claims measured with other parameters: what is multiplied, and what is stored."""

import json

import pytest
import vary
from contents import BOOK, BuildError

CHAPTER = "localdsm/physics"
STORED = json.loads((BOOK / "measurements" / "physics_euler.json").read_text("utf-8"))


def test_whole_numbers_stay_whole_and_positive():
    known = vary.defaults(CHAPTER)
    found = vary.multiplied(CHAPTER, ["coarse_steps", "lr"], 0.5)
    assert found == {"coarse_steps": round(known["coarse_steps"] / 2), "lr": known["lr"] / 2}
    assert vary.multiplied(CHAPTER, ["coarse_steps"], 1e-9) == {"coarse_steps": 1}


@pytest.mark.parametrize("name", ["steps_of_nothing", "grid_cells"])
def test_what_is_no_number_of_the_parameters_is_refused(name):
    with pytest.raises(BuildError, match=name):
        vary.multiplied(CHAPTER, ["coarse_steps", name], 2)


@pytest.mark.parametrize("factor", STORED["factors"])
def test_stored_numbers_are_multiples_of_what_the_chapter_has(factor):
    """If the chapter's steps change, its stored trainings are to be made again."""
    had = STORED["factors"][factor]["parameters"]
    assert had == vary.multiplied(CHAPTER, list(had), float(factor))
