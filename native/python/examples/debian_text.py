"""Bytes of the Debian documentation on this machine as a text, the same for the same installed packages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

LICENSES = Path("/usr/share/common-licenses")
DOCUMENTATION = Path("/usr/share/doc")


def debian_text(most_bytes: int = 4 << 20) -> bytes:
    """Licenses, then the copyright files of all packages, each content once, in the order of their paths.

    Args:
        most_bytes: where the text is cut.

    Raises:
        FileNotFoundError: this machine has no such documentation.
    """
    text = bytearray()
    seen = set()
    for path in _documents():
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if digest not in seen:
            seen.add(digest)
            text += content
        if len(text) >= most_bytes:
            break
    if not text:
        raise FileNotFoundError(f"no files in {LICENSES} and no copyright files in {DOCUMENTATION}: give a text")
    return bytes(text[:most_bytes])


def _documents() -> Iterator[Path]:
    yield from (path for path in sorted(LICENSES.glob("*")) if path.is_file() and not path.is_symlink())
    yield from (path for path in sorted(DOCUMENTATION.glob("*/copyright")) if path.is_file())


class Batches:
    """Sequences of bytes at positions that depend on the step alone.

    Args:
        text: at least `length` + 1 bytes.
        sequences: sequences of a step.
        length: bytes of a sequence that are predicted.
    """

    def __init__(self, text: bytes, sequences: int, length: int) -> None:
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.sequences = sequences
        self.length = length

    def step(self, step: int) -> Tensor:
        """Bytes of a step: int64 [sequences, length + 1]; each byte predicts its successor."""
        generator = torch.Generator().manual_seed(step)
        starts = torch.randint(len(self.text) - self.length, (self.sequences,), generator=generator)
        return torch.stack([self.text[start : start + self.length + 1] for start in starts.tolist()]).long()
