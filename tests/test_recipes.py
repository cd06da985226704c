"""Recipes: every command parses, steps hang together, what was finished is kept, and a smoke run goes all the way."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from darkspike import recipe as command
from docs import parsers
from tests.conftest import ROOT
from utils.darknet.cfg import parse_cfg
from utils.darknet.spec import Conv
from utils.errors import InputError
from utils.recipes.follow import follow, outcomes, run_name, shown, table
from utils.recipes.recipe import BLANK, KINDS, Expected, names, read_recipe
from utils.recipes.smoke import prepare, thinner
from utils.reporting.record import finish_record, new_run_folder, start_record

TWO = """
title = "two steps"
kind = "pruning"
data = "set.data"
source = "a table"
[[steps]]
name = "first"
command = "train.py --epochs 3"
processes = 2
[[steps]]
name = "second"
command = "slim_prune.py --weights {first.best}"
[[expected]]
what = "mAP"
step = "second"
metric = "after.map50"
value = 0.5
tolerance = 0.02
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("set.data").touch()
    Path("two.toml").write_text(TWO)
    return tmp_path


def acting(score=0.49, broken=()):
    """Commands that leave a record and networks, and what was run."""
    ran = []

    def start(words, processes):
        ran.append((words, processes))
        script, name = Path(words[0]).stem, words[words.index("--name") + 1]
        record = start_record(new_run_folder("runs", script, name), script=script, args={"name": name})
        if script in broken:
            raise InputError(f"{script} ended with code 2")
        outputs = [Path(f"weights/last_{name}.pt"), Path(f"weights/best_{name}.pt")]
        for path in outputs:
            path.parent.mkdir(exist_ok=True)
            path.touch()
        finish_record(record, metrics={"after": {"map50": score}}, outputs=outputs)

    return start, ran


@pytest.mark.parametrize("name", names())
def test_every_command_of_a_recipe_parses(name, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it, which some flags ask for
    recipe = read_recipe(name)
    for step in recipe.steps:
        words = BLANK.sub("weights/left.pt", step.command).split()
        key = f"-m {words[1]}" if words[0] == "-m" else words[0]
        flags = parsers.parser_of(parsers.commands()[key])
        flags.parse_args(
            [*words[2 if words[0] == "-m" else 1 :], *([] if step.makes else ["--name", run_name(recipe, step)])]
        )
        for word in words:
            made = [each.makes for each in recipe.steps]
            assert not word.endswith(".cfg") or (ROOT / word).is_file() or word in made, f"{name}: {word}"
            assert not word.endswith(".weights") or word in recipe.needs, f"{name}: {word}"
        assert "--data" not in words or words[words.index("--data") + 1] == recipe.data


def test_steps_of_one_run_are_the_same_command():
    found = defaultdict(set)
    for recipe in map(read_recipe, names()):
        for step in recipe.steps:
            found[run_name(recipe, step)].add((step.command, step.processes, step.makes))
    assert len(found) > 40
    assert {name: each for name, each in found.items() if len(each) > 1} == {}


def test_every_kind_of_table_has_recipes_and_every_value_its_source():
    recipes = [read_recipe(name) for name in names()]
    assert {recipe.kind for recipe in recipes} == set(KINDS)
    for recipe in recipes:
        assert all(each.source or recipe.source for each in recipe.expected)
        assert all(0 < each.tolerance < each.value for each in recipe.expected)


def test_a_recipe_runs_its_steps_and_says_ours_beside_theirs(place, capsys):
    start, ran = acting()
    recipe = read_recipe("two.toml")
    follow(recipe, start)
    assert ran == [
        (["train.py", "--epochs", "3", "--name", "two-first"], 2),
        (["slim_prune.py", "--weights", "weights/best_two-first.pt", "--name", "two-second"], 1),
    ]
    (found,) = outcomes(recipe)
    assert found.ours == 0.49 and found.verdict == "within"
    assert re.search(r"mAP \| +0\.5 \| +0\.02 \| 0\.49 \| +-0\.01 \| within", table(recipe, [found]))


def test_what_was_finished_is_kept_and_what_failed_is_run_again(place):
    start, ran = acting(broken=("slim_prune",))
    recipe = read_recipe("two.toml")
    with pytest.raises(InputError, match="slim_prune ended with code 2"):
        follow(recipe, start)
    start, ran = acting()
    follow(recipe, start)
    assert [words[0] for words, _ in ran] == ["slim_prune.py"]
    follow(recipe, start)
    assert len(ran) == 1
    Path("weights/best_two-first.pt").unlink()  # what it left is gone: it is made again
    with pytest.raises(InputError, match=r"train\.py: no such file"):
        follow(recipe, lambda words, processes: (_ for _ in ()).throw(InputError(f"{words[0]}: no such file")))


def test_other_words_are_another_step(place):
    start, ran = acting()
    follow(read_recipe("two.toml"), start)
    Path("two.toml").write_text(TWO.replace("--epochs 3", "--epochs 4"))
    follow(read_recipe("two.toml"), start)
    assert [words[:3] for words, _ in ran if words[0] == "train.py"] == [
        ["train.py", "--epochs", "3"],
        ["train.py", "--epochs", "4"],
    ]


def test_a_training_that_was_cut_goes_on(place):
    recipe = read_recipe("two.toml")
    start, _ = acting(broken=("train",))
    with pytest.raises(InputError):
        follow(recipe, start)
    Path("weights").mkdir()
    Path("weights/last_two-first.pt").touch()
    seen = []
    with pytest.raises(InputError, match="ended without what it should leave"):
        follow(recipe, lambda words, processes: seen.append((words, processes)))
    assert seen == [(["train.py", "--resume", "weights/last_two-first.pt"], 2)]


@pytest.mark.parametrize(
    ("score", "verdict", "less"),
    [(0.47, "worse", False), (0.53, "better", False), (0.47, "better", True), (0.53, "worse", True)],
)
def test_what_is_worse_by_more_than_the_tolerance_is_told(place, score, verdict, less):
    if less:
        Path("two.toml").write_text(TWO + "less_is_better = true\n")
    start, _ = acting(score)
    recipe = read_recipe("two.toml")
    follow(recipe, start)
    assert outcomes(recipe)[0].verdict == verdict


def test_the_command_ends_with_code_3_where_ours_is_worse(place, monkeypatch, capsys):
    start, _ = acting(0.3)
    monkeypatch.setattr(command, "command", start)
    assert command.main(["two.toml"]) == 3
    assert capsys.readouterr().err == "recipe: two: worse than theirs by more than the tolerance: mAP\n"
    record = json.loads(Path("runs/recipe-two/record.json").read_text())
    assert record["metrics"]["rows"] == [{"what": "mAP", "theirs": 0.5, "ours": 0.3, "verdict": "worse"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("set.data", "gone.data"), r"two: gone\.data is not there; make it"),
        (("kind", "knd"), "two.toml: knd is no key; known are"),
        (('"pruning"', '"cooking"'), "kind = 'cooking'; one of training"),
        (("first.best", "third.best"), r"step second asks for \{third\.best\}; it can have best, last, network of first"),
        (("first.best", "first.worst"), r"asks for \{first\.worst\}"),
        (('"second"\ncommand', '"first"\ncommand'), "two steps are called first"),
        (("value = 0.5\n", ""), "two.toml expected: value is missing"),
        (("value = 0.5", "value = nan"), "value and tolerance are numbers"),
        (('step = "second"', 'step = "third"'), "of step third; steps are first, second"),
        (("processes = 2", "processes = 0"), "processes = 0; a whole number from 1 up"),
        (("[[expected]]", "[expected]"), r"has no \[\[expected\]\]"),
        (("title = ", "title "), "is no TOML"),
    ],
)  # fmt: skip
def test_a_recipe_that_is_wrong_is_refused_in_a_line(place, capsys, change, message):
    assert change[0] in TWO
    Path("two.toml").write_text(TWO.replace(*change))
    assert command.main(["two.toml"]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.count("\n") == 1


def test_no_recipe_and_an_unknown_one_are_told(capsys):
    assert command.main([]) == 2 and command.main(["brownies"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "recipe: which recipe? give a NAME, or --list to see them",
        "recipe: brownies: no such recipe; python3 -m darkspike.recipe --list names them",
    ]


def test_commands_are_shown_as_they_are_typed(caplog):
    recipe = read_recipe("oxfordhand-yolov3-normal")
    with caplog.at_level("INFO"):
        assert command.main(["--show", "oxfordhand-yolov3-normal"]) == 0 == command.main(["--list"])
    assert (
        "baseline: torchrun --nproc_per_node=4 -- train.py --cfg cfg/yolov3.cfg --weights yolov3.weights -pt"
        in caplog.text
    )
    assert "--weights <best of baseline>" in caplog.text and "expected: mAP@.5 before 0.806, within 0.02" in caplog.text
    assert all(name in caplog.text for name in names())
    assert shown(["train.py"], recipe.steps[0], 1) == "python3 train.py"


def test_a_command_that_fails_says_its_code(place, monkeypatch):
    (place / "bad.py").write_text("import sys; sys.exit(2)")
    monkeypatch.setattr(command, "ROOT", place)
    with pytest.raises(InputError, match=r"bad\.py ended with code 2; mend what it said, then run this again"):
        command.command(["bad.py"], 1)
    (place / "bad.py").write_text("import sys, pathlib; pathlib.Path('seen').write_text(' '.join(sys.argv[1:]))")
    command.command(["bad.py", "--epochs", "3"], 1)
    assert (place / "seen").read_text() == "--epochs 3"


@pytest.mark.parametrize(
    "cfg", ["yolov3", "yolov4-tiny", "yolov3-mobilenet", "classes/vgg16", "classes/cifar-resnet56"]
)
def test_a_thin_network_is_the_same_network_with_fewer_channels(cfg):
    text = (ROOT / f"cfg/{cfg}.cfg").read_text()
    whole, thin = parse_cfg(text), parse_cfg(thinner(text))
    assert [type(layer) for layer in whole.layers] == [type(layer) for layer in thin.layers]
    assert [layer.sources for layer in whole.layers] == [layer.sources for layer in thin.layers]
    pairs = [(w, t) for w, t in zip(whole.layers, thin.layers, strict=True) if isinstance(w, Conv)]
    assert all((w.groups > 1) == (t.groups > 1) for w, t in pairs)
    assert sum(t.filters for _, t in pairs) < sum(w.filters for w, _ in pairs) / 4


@pytest.mark.parametrize("name", names())
def test_every_recipe_has_data_and_networks_to_be_tried_on(tmp_path, name):
    recipe = read_recipe(name)
    prepare(recipe, ROOT, tmp_path, lambda cfg, weights: weights.touch())
    assert (tmp_path / recipe.data).exists() and all((tmp_path / path).is_file() for path in recipe.needs)
    for path in tmp_path.glob("cfg/**/*.cfg"):
        parse_cfg(path.read_text(), path.name)


def test_a_smoke_run_goes_through_every_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = command.smoke(read_recipe("oxfordhand-yolov3-tiny-normal"))
    assert len(found) == 3 and all(each.ours is not None for each in found)
    assert list(tmp_path.iterdir()) == []


def test_a_smoke_run_finds_a_number_that_no_record_has(tmp_path, monkeypatch):
    recipe = read_recipe("coco-yolov3-tiny")
    wrong = Expected(what="x", step="measured", metric="best.map50", value=1.0, tolerance=0.1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "in_this_process", acting()[0])
    with pytest.raises(
        InputError, match=r"no such number in the record of step measured: best\.map50; mend the recipe"
    ):
        command.smoke(type(recipe)(**{**vars(recipe), "expected": (wrong,)}))
