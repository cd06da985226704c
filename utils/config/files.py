"""What convert.py is told."""

from __future__ import annotations

from dataclasses import dataclass

from utils.cli import flag
from utils.config.run import NetworkConfig
from utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FilesConfig(NetworkConfig):
    """The flags of convert.py."""

    weights: str = flag("", ".weights, with --cfg, or a float .pt (default: the newest float network made here)")
    output: str = flag("", "the new file, instead of one in weights/ that is called after the old one")

    def check_values(self) -> None:
        """An output of the other kind, and the classes' names only where no checkpoint carries them."""
        given = "pt" if self.weights.endswith(".weights") else "weights"
        if self.output and not self.output.endswith(f".{given}"):
            raise InputError(f"--output {self.output}: must end in .{given}, since --weights is of the other kind")
        if given == "weights" and {"data", "resize", "jpeg", "gray_scale", "img_size"} & {*self.given}:
            said = next(name for name in ("data", "resize", "jpeg", "gray_scale", "img_size") if name in self.given)
            raise InputError(f"--{said.replace('_', '-')}: a .pt carries its own; leave it away")
