"""What holds of the settings of every part: read strictly, each under a name of its own, documented."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import docstring_parser
import pytest
import yaml

from ppr_dist import read_config, runs
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.model.item_encoders import ITEM_ENCODERS
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.parallel.step_cost import step_cost, typical
from ppr_dist.read_config import part_sections, section_of
from ppr_dist.runs import RunInfo
from ppr_dist.tuning import TUNING_METHODS
from tests.multirank.models import ATTRIBUTES, ITEMS, catalogue_for
from tests.registry.cases import CASES

ROOMS: list[dict[str, Any]] = [dict(room) for room in (BACKBONES, ITEM_ENCODERS, OBJECTIVES, TUNING_METHODS)]
INFO = RunInfo(
    stage="pretrain", method=None, data="d", fingerprint="f", catalogue={}, items=ITEMS, attributes=ATTRIBUTES
)
each_section = pytest.mark.parametrize("name", part_sections())


def test_no_two_parts_share_a_name_and_no_two_sections() -> None:
    names = [name for room in ROOMS for name in room]
    assert len(set(names)) == len(names)
    own = {field.name for field in dataclasses.fields(Config)}
    found: dict[str, type] = {}
    for room in ROOMS:
        for name, part in room.items():
            if getattr(part, "section", None) is not None:
                section = section_of(name, part)
                assert section not in own
                assert found.setdefault(section, part.section) is part.section, section
    assert found == part_sections()


@each_section
def test_a_key_that_a_section_has_not_is_refused_and_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    defaults = dataclasses.asdict(part_sections()[name]())
    file.write_text(yaml.safe_dump({name: defaults}))
    assert read_config.read(file).parts[name] == part_sections()[name]()
    file.write_text(yaml.safe_dump({name: defaults | {"shiny": 1}}))
    with pytest.raises(UserError, match=r"c\.yaml.*shiny") as refused:
        read_config.read(file)
    assert "\n" not in str(refused.value)


@each_section
def test_a_value_of_the_wrong_type_is_refused_and_its_key_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    for field in dataclasses.fields(part_sections()[name]):
        file.write_text(yaml.safe_dump({name: {field.name: {"no": "mapping"}}}))
        with pytest.raises(UserError, match=rf"c\.yaml.*{name}\.{field.name}") as refused:
            read_config.read(file)
        assert "\n" not in str(refused.value)


@each_section
def test_sections_are_frozen_and_say_what_each_setting_is(name: str) -> None:
    section = part_sections()[name]
    assert section.__dataclass_params__.frozen  # type: ignore[attr-defined]
    described = {
        each.arg_name: each.description
        for owner in reversed(section.__mro__[:-1])
        for each in docstring_parser.parse_from_object(owner).params
    }
    for field in dataclasses.fields(section):
        assert described.get(field.name), f"{name}.{field.name} has no docstring"
    assert section.__doc__
    assert not section.__doc__.startswith(f"{section.__name__}("), f"{name} has no docstring"


@pytest.mark.parametrize("name", CASES)
def test_a_run_says_what_it_was_trained_with(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    config = case.config()
    info = dataclasses.replace(INFO, stage="tune" if case.method else "pretrain", method=case.method)
    runs.create(tmp_path, config, info, {}, resume=False)
    read, same = runs.read(tmp_path)
    assert same == info
    said = yaml.safe_load((tmp_path / "config.yaml").read_text())
    rooms = [(BACKBONES, case.backbone), *((OBJECTIVES, name) for name in case.objectives)]
    rooms += [(TUNING_METHODS, case.method)] if case.method else []
    for room, part in rooms:
        section = section_of(part, room[part])
        assert (section in said) == (room[part].section is not None)
        assert read_config.section(read, section) == read_config.section(config, section)
    assert dataclasses.replace(read, parts={}) == dataclasses.replace(config, parts={})


@pytest.mark.parametrize("name", CASES)
def test_plan_knows_what_a_step_of_it_costs(name: str) -> None:
    case = CASES[name]
    config = case.config()
    catalogue: Catalogue = catalogue_for(config)
    assert set(catalogue.attributes) == set(ATTRIBUTES)
    for world_size in (1, 8):
        shape = typical(config, catalogue, case.method, world_size, 7.0)
        cost = step_cost(config, catalogue, case.method, shape, "cuda")
        received = {part: each["bytes"] for part, each in cost.items()}
        assert min(received.values()) >= 0
        # One rank receives nothing; of many, each trains what all did.
        assert (sum(received.values()) > 0) == (world_size > 1)
        assert cost["backbone"]["flops"] > 0
