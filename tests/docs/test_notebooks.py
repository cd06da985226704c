"""The notebooks run from their first cell to their last, on drawn squares and a network of a few channels."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.scenes import write_scenes

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "NOTEBOOK_CFG": "net.cfg",
    "NOTEBOOK_DATA": "set.data",
    "NOTEBOOK_EPOCHS": "1",
    "NOTEBOOK_PERCENT": "0.3",
    "NOTEBOOK_FORCE": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
}


def code_of(notebook: dict) -> str:
    """The code cells as one program; a figure ends with its cell, as it does where cells are run by hand."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return "\n\n".join(cells) + "\n"


def test_there_are_notebooks():
    assert {path.name for path in NOTEBOOKS} == {"compress.ipynb", "spikes.ipynb"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path, tmp_path):
    write_scenes(tmp_path)
    program = tmp_path / f"{path.stem}.py"
    program.write_text(code_of(json.loads(path.read_text())) + "\nprint('the last cell is done')\n")
    env = os.environ | SMALL | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the last cell is done\n")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and not [cell for cell in cells if cell["outputs"] or cell["execution_count"]]
