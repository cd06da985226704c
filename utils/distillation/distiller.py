"""The teacher at work: its answers to the student's images, and how far the student is from them, term by term."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet.spec import Detect, ModelSpec
from utils.detection.decode import decode, split
from utils.detection.loss import LossWeights, match
from utils.detection.nms import non_max_suppression
from utils.distillation import features as f
from utils.distillation import outputs as o
from utils.distillation.masks import object_mask
from utils.distillation.outputs import View
from utils.distillation.pairs import OUTPUTS, check, message, pair_heads
from utils.distillation.strategies import TERMS

SURE = 0.5  # score from which on a box of the teacher stands for a label on an image that has none


class Distiller:
    """Teaches a student with the terms it is told.

    Call it with the images, the student's raw heads (float32) and the targets, after the student's forward pass was
    made inside ``watching``; it returns each term by name, gains applied, a mean per image like the loss.

    The teacher is in eval mode and runs without autograd; nothing of it is trained or saved. What is trained along are
    the adapters and generators that some feature terms need, in ``helpers``.

    Args:
        student: structure of the network that learns.
        teacher: a network whose ``layers.{i}`` are modules and that returns raw head maps in cfg order.
        structure: the teacher's.
        terms: names in `strategies.TERMS`, see `strategies.terms_of`.
        weight: of all terms together.
        autocast: the context both networks' forward passes run in.
        mean: where several processes share a batch, the mean of a number over them, so that what theirs average to is
            what one process says of the whole batch.

    Raises:
        InputError: nothing of this teacher can be distilled into this student with these terms.
    """

    def __init__(
        self,
        student: ModelSpec,
        teacher: nn.Module,
        structure: ModelSpec,
        terms: Sequence[str],
        *,
        weight: float = 1.0,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
        mean: o.Mean = o.alone,
    ) -> None:
        kinds = [TERMS[name].compares for name in terms]
        self.pairs = pair_heads(student, structure)
        check(self.pairs, kinds)
        can = any(pair.order for pair in self.pairs)
        self.terms = tuple(name for name in terms if can or TERMS[name].compares != OUTPUTS)
        self.message = message(self.pairs, kinds, len(student.heads))
        self.weight, self._autocast, self._mean = weight, autocast, mean
        self._heads = tuple(_heads_of(spec) for spec in (student, structure))
        self._teacher = teacher.eval().requires_grad_(False)
        self._seen: dict[int, Tensor] = {}
        self.helpers = nn.ModuleDict()
        for number, pair in enumerate(self.pairs):
            if "cwd" in self.terms:
                self.helpers[f"cwd{number}"] = f.adapter(*pair.widths)
            if "mgd" in self.terms:
                self.helpers[f"mgd{number}"] = f.Generator(*pair.widths)

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[None]:
        """While inside, a forward pass of the student leaves the features that the terms compare."""
        network = getattr(student, "module", student)  # as DistributedDataParallel wraps it
        with tapped(network, [pair.layers[0] for pair in self.pairs if self._compares_features]) as seen:
            yield
        self._seen = seen

    def __call__(
        self, images: Tensor, outputs: Sequence[Tensor], targets: Tensor, labelled: int | None = None
    ) -> dict[str, Tensor]:
        """The terms of a batch.

        Args:
            images: [N, C, H, W] in 0..1, those the student has seen.
            outputs: the student's raw heads, float32, in cfg order.
            targets: [M, 6] (image, class, cx, cy, w, h; 0..1).
            labelled: how many of the images, the first ones, the targets belong to; on the others the boxes the
                teacher is sure of take their place. None: all.
        """
        size, targets = tuple(images.shape[-2:]), targets.to(outputs[0].device).float()
        layers = [pair.layers[1] for pair in self.pairs if self._compares_features]
        with torch.no_grad(), self._autocast(), tapped(self._teacher, layers) as taught:
            answers = self._teacher(images)
        answers = [answer.float() for answer in answers]
        if labelled is not None and labelled < len(images) and any(TERMS[name].boxes for name in self.terms):
            targets = torch.cat((targets, self._found(answers, size, labelled)))
        views = self._views(outputs, answers, targets, size)
        seen, self._seen = self._seen, {}
        values = {}
        for name in self.terms:
            if TERMS[name].compares == OUTPUTS:
                value = _output_term(name, views, targets, self._mean)
            else:
                value = self._feature_term(name, seen, taught, targets)
            values[f"kd_{name}"] = self.weight * TERMS[name].gain * value
        return values

    def parameters(self) -> list[nn.Parameter]:
        """What is trained along with the student."""
        return list(self.helpers.parameters())

    @property
    def _compares_features(self) -> bool:
        return any(TERMS[name].compares != OUTPUTS for name in self.terms)

    def _views(self, outputs: Sequence[Tensor], answers: Sequence[Tensor], targets: Tensor, size: Any) -> list[View]:
        """The pairs whose outputs can be compared, float32."""
        pairs = [pair for pair in self.pairs if pair.order]
        own, others = self._heads
        if not pairs or not any(TERMS[name].compares == OUTPUTS for name in self.terms):
            return []
        detached = [output.detach() for output in outputs]
        matches = match(detached, own, targets, size, LossWeights().ratio)
        views = []
        for pair in pairs:
            raw, heads = outputs[pair.student], (own[pair.student], others[pair.teacher])
            answer = split(answers[pair.teacher], heads[1])[:, list(pair.order)]
            stride = raw.new_tensor([size[1] / raw.shape[3], size[0] / raw.shape[2]])
            views.append(View(split(raw, heads[0]), answer, heads, matches[pair.student], stride))
        return views

    def _feature_term(self, name: str, seen: dict[int, Tensor], taught: dict[int, Tensor], targets: Tensor) -> Tensor:
        """Mean of a term over the pairs."""
        values = []
        for number, pair in enumerate(self.pairs):
            own, other = seen[pair.layers[0]], taught[pair.layers[1]].float()
            if name in ("cwd", "mgd"):
                with self._autocast():
                    own = self.helpers[f"{name}{number}"](own)
            own = own.float()
            match name:
                case "cwd":
                    values.append(f.channel_term(own, other))
                case "mgd":
                    values.append(f.generation_term(own, other))
                case "attention":
                    values.append(f.attention_term(own, other))
                case _:
                    mask = object_mask(targets, len(own), (own.shape[2], own.shape[3]))
                    values.append(f.attention_term(own, other, mask, mean=self._mean))
        return torch.stack(values).mean()

    def _found(self, answers: Sequence[Tensor], size: Any, labelled: int) -> Tensor:
        """The teacher's boxes on the images from number ``labelled`` on, as targets."""
        rows = [answers[0].new_zeros(0, 6)]
        decoded = decode([answer[labelled:] for answer in answers], self._heads[1], size)
        for number, boxes in enumerate(non_max_suppression(decoded, conf=SURE, iou=0.6)):
            corners = boxes[:, :4] / boxes.new_tensor([size[1], size[0]] * 2)
            low, high = corners[:, :2].clamp(0, 1), corners[:, 2:].clamp(0, 1)
            image = torch.full((len(boxes), 1), float(labelled + number))
            rows.append(torch.cat((image, boxes[:, 5:6], (low + high) / 2, high - low), dim=1).to(rows[0].device))
        return torch.cat(rows)


@contextmanager
def tapped(network: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """While inside, a forward pass leaves what each of these layers reads, by number."""
    seen: dict[int, Tensor] = {}

    def tap(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: seen.__setitem__(number, given[0])

    handles = [network.get_submodule(f"layers.{i}").register_forward_pre_hook(tap(i)) for i in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _output_term(name: str, views: Sequence[View], targets: Tensor, mean: o.Mean) -> Tensor:
    match name:
        case "class":
            return o.class_term(views)
        case "objectness":
            return o.objectness_term(views)
        case "seen_class":
            return o.seen_class_term(views, mean)
        case "seen_box":
            return o.seen_box_term(views, mean)
        case "worse_box":
            return o.worse_box_term(views, targets, mean)
    return o.direct_box_term(views, mean)


def _heads_of(spec: ModelSpec) -> tuple[Detect, ...]:
    return tuple(layer for layer in spec.layers if isinstance(layer, Detect))
