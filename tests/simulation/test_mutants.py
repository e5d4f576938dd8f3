"""The seeded mistakes keep up with the engine."""

from __future__ import annotations

import pytest

from .mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_that_a_mutant_changes_is_there(mutant: Mutant) -> None:
    with mutant.change():
        pass
