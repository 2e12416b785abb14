"""The shipped configurations of ``accelerate launch``: accelerate reads every key, and a run keeps them."""

import re
from dataclasses import asdict

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from recipes.errors import RecipeError
from recipes.launch import NEEDED, check_launch, is_sharded
from recipes.loading import LAUNCHERS, shipped_recipes

CONFIGS = sorted(LAUNCHERS.glob("*.yaml"))
PROCESSES = {"one_gpu": 1, "two_processes_cpu": 2, "eight_gpus": 8, "two_nodes": 16}


def test_there_is_one_for_each_size_and_none_is_taken_for_a_recipe():
    assert {path.stem for path in CONFIGS} == PROCESSES.keys()
    assert not set(CONFIGS) & set(shipped_recipes())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_uses_every_key(path):
    said = yaml.safe_load(path.read_text())
    # Unknown keys at the top are an error of the loader's own.
    read = asdict(load_config_from_file(str(path)))
    for key, value in said.items():
        got = read[key]
        assert str(getattr(got, "value", got)) == str(value), key
    words = ["--config_file", str(path), "-m", "recipes"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert arguments.num_processes == PROCESSES[path.stem]
    assert arguments.use_fsdp == ("fsdp_config" in said)
    for key, value in said.get("fsdp_config", {}).items():
        assert getattr(arguments, key) == value, key
        # An option of the command line; one that it lacks would be carried along and read by nobody.
        assert hasattr(launch_command_parser().parse_args(["-m", "recipes"]), key), key


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_header_gives_a_command_with_this_file(path):
    header = "".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"accelerate launch --config_file recipes/accelerate/{path.name}" in header
    assert re.search(r"-m recipes run recipes/[\w/]+\.yaml", header)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_run_keeps_what_they_say(path, monkeypatch):
    said = yaml.safe_load(path.read_text())
    monkeypatch.setenv("WORLD_SIZE", str(said["num_processes"]))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str("fsdp_config" in said).lower())
    for key, value in said.get("fsdp_config", {}).items():
        monkeypatch.setenv(key.upper(), str(value).lower() if value in (True, False) else str(value))
    check_launch()
    assert is_sharded() == ("fsdp_config" in said)


@pytest.mark.parametrize("key", NEEDED)
def test_what_does_not_go_with_adapters_is_refused(key, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for name, (needed, _) in NEEDED.items():
        monkeypatch.setenv(name.upper(), needed)
    check_launch()
    monkeypatch.setenv(key.upper(), {"2": "1", "false": "true"}.get(NEEDED[key][0], "FULL_STATE_DICT"))
    with pytest.raises(RecipeError, match=f"accelerate's {key} is .* and must be {NEEDED[key][0]}: "):
        check_launch()
