"""Masks against drawings: whole cells, whatever the stride, the order of the heads and the shape of the image."""

from __future__ import annotations

import pytest
import torch

from utils.distillation.masks import object_mask


def box(x1: float, y1: float, x2: float, y2: float, size: tuple[int, int], image: int = 0) -> list[float]:
    """A target from corners in px of an image of ``size`` (height, width)."""
    h, w = size
    return [image, 0, (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h]


def drawn(mask: torch.Tensor) -> list[str]:
    return ["".join("#" if cell else "." for cell in row) for row in mask]


def mask_of(boxes: list[list[float]], size: tuple[int, int], stride: int, images: int = 1) -> torch.Tensor:
    return object_mask(torch.tensor(boxes).view(-1, 6), images, (size[0] // stride, size[1] // stride))


@pytest.mark.parametrize(
    ("stride", "picture"),
    [
        (32, ["...", ".#."]),
        (16, ["......", "......", "..##..", "..##.."]),
        (8, ["............"] * 4 + ["....####...."] * 4),
    ],
)
def test_object_of_one_coarse_cell_fills_whole_blocks_not_a_diagonal(stride, picture):
    size = (64, 96)
    assert drawn(mask_of([box(32, 32, 64, 64, size)], size, stride)[0]) == picture


@pytest.mark.parametrize(
    ("stride", "picture"),
    [
        (32, ["##.", "...", "...", "..."]),
        (16, [".##...", ".##...", "......", "......", "......", "......", "......", "......"]),
    ],
)
def test_cells_that_are_touched_at_all_are_marked_whole_in_a_tall_image(stride, picture):
    size = (128, 96)
    assert drawn(mask_of([box(30, 10, 34, 20, size)], size, stride)[0]) == picture


def test_objects_of_one_image_join_and_those_of_another_stay_there():
    size = (64, 64)
    rows = [box(0, 0, 8, 8, size), box(48, 48, 64, 64, size), box(20, 0, 30, 64, size, image=2)]
    mask = mask_of(rows, size, 16, images=3)
    assert drawn(mask[0]) == ["#...", "....", "....", "...#"]
    assert not mask[1].any()
    assert drawn(mask[2]) == [".#.."] * 4


def test_box_over_the_whole_image_marks_all_and_none_marks_nothing():
    assert mask_of([box(0, 0, 96, 64, (64, 96))], (64, 96), 8).all()
    assert not mask_of([], (64, 96), 8).any()


def test_borders_on_cells_edges_do_not_leak_into_neighbours_at_any_place():
    for cells in (7, 13, 19, 52):
        for first in range(cells):
            size = (32 * cells, 32 * cells)
            mask = mask_of([box(32 * first, 0, 32 * (first + 1), 32, size)], size, 32)
            assert mask.sum() == 1 and mask[0, 0, first]


def test_thin_box_at_the_very_edge_still_marks_one_cell():
    assert drawn(mask_of([[0, 0, 1.0, 1.0, 0.0, 0.0]], (32, 64), 16)[0]) == ["....", "...#"]
