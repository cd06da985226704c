"""Classes of a tree: a softmax in each group, the class that is told, and the loss of a class's whole path."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.darknet.tree import Parents, groups

ENOUGH = 0.5  # Darknet's -hier: how likely the path down to a class must be before it is told and not its parent


def log_probabilities(values: Tensor, parents: Parents) -> Tensor:
    """Raw classes [..., C] -> the logarithm of each one's share among those of its group (softmax_tree)."""
    own, _ = groups(parents)
    flat, index = values.reshape(-1, len(parents)), torch.tensor(own, device=values.device)
    empty = flat.new_zeros(len(flat), max(own) + 1)
    most = empty.scatter_reduce(1, index.expand_as(flat), flat.detach(), "amax", include_self=False)
    total = empty.index_add(1, index, (flat - most[:, index]).exp())
    return (flat - (most + total.log())[:, index]).view_as(values)


def told(values: Tensor, parents: Parents, enough: float = ENOUGH) -> Tensor:
    """Raw classes [..., C] -> the class that Darknet tells, int64 [...].

    From the top the likeliest class of a group, and on to the group below it while the product of what was met is above
    ``enough``; then the parent. What is met are probabilities of the whole path already (hierarchy_predictions), so
    that Darknet's product counts upper classes more than once; so does this.

    Source: hierarchy_predictions and hierarchy_top_prediction in Darknet's tree.c.
    """
    own, below = (torch.tensor(each, device=values.device) for each in groups(parents))
    up = torch.tensor(parents, device=values.device)
    path = _path_sums(log_probabilities(values, parents).reshape(-1, len(parents)), parents).exp()
    most = path.new_zeros(len(path), int(own.max()) + 1).scatter_reduce(1, own.expand_as(path), path, "amax")
    chance, group, found = path.new_ones(len(path)), up.new_zeros(len(path)), up.new_full((len(path),), -1)
    over = up.new_zeros(int(own.max()) + 1).index_copy(0, own, up)  # parent of a group's classes
    while bool((found < 0).any()):
        best = torch.where(own == group[:, None], path, -1.0).argmax(1)
        likely = most.gather(1, group[:, None])[:, 0]
        enters = chance * likely > enough
        stops = torch.where(enters, best, torch.where(group == 0, best, over[group]))
        ends = ~enters | (below[best] < 0)
        found = torch.where((found < 0) & ends, stops, found)
        chance, group = torch.where(ends, chance, chance * likely), torch.where(ends, group, below[best])
    return found.view(values.shape[:-1])


def path_loss(values: Tensor, labels: Tensor, parents: Parents) -> Tensor:
    """Sum of the cross entropies in the groups of each label and of all above it; [M, C] and int [M].

    Source: delta_region_class in Darknet's region_layer.c.
    """
    chances, up = log_probabilities(values, parents), torch.tensor(parents, device=values.device)
    total, at = values.new_zeros(()), labels.long()
    rows = torch.arange(len(at), device=values.device)
    while len(at):
        total = total - chances[rows, at].sum()
        higher = up[at]
        rows, at = rows[higher >= 0], higher[higher >= 0]
    return total


def _path_sums(logs: Tensor, parents: Parents) -> Tensor:
    """[M, C] -> each with those of all above it added."""
    up = torch.tensor(parents, device=logs.device)
    total, at = logs.clone(), up.clone()
    while bool((at >= 0).any()):
        under = at >= 0
        total[:, under] += logs[:, at[under]]
        at = torch.where(under, up[at.clamp(min=0)], at)
    return total
