"""Short names and library names of models, each the name of exactly one variant."""

from __future__ import annotations

import difflib
import re

from exporters.errors import ConfigError
from exporters.text_files import shortened
from swin_deploy.config import VARIANTS

MOST_PROPOSED = 3
LETTERS = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
# Variant of each family, size and, if given, image side; without one 224 px, for V2 256 px.
SHORT_NAMES: dict[str, str] = {
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swin_small": "swin_small_patch4_window7_224",
    "swin_base": "swin_base_patch4_window7_224",
    "swin_large": "swin_large_patch4_window7_224",
    "swin_base_384": "swin_base_patch4_window12_384",
    "swin_large_384": "swin_large_patch4_window12_384",
    "swin_s3_tiny": "swin_s3_tiny_224",
    "swin_s3_small": "swin_s3_small_224",
    "swin_s3_base": "swin_s3_base_224",
    "swinv2_tiny": "swinv2_tiny_window8_256",
    "swinv2_small": "swinv2_small_window8_256",
    "swinv2_base": "swinv2_base_window8_256",
    "swinv2_large": "swinv2_large_window12to16_192to256",
    "swinv2_base_192": "swinv2_base_window12_192",
    "swinv2_base_384": "swinv2_base_window12to24_192to384",
    "swinv2_large_192": "swinv2_large_window12_192",
    "swinv2_large_384": "swinv2_large_window12to24_192to384",
    "digits": "notebook-digits",
}
OWNERS = re.compile(r"^(hf[-_]hub:)?(microsoft|timm)/")
# Data that weights come from, at the ends of the authors', timm's former and Hugging Face's names.
DATA = re.compile(r"-(in1k|in22k|22k|22kto1k|22kft1k|in22ft1k)(-(ft|finetune))?$")


def variant_name(name: str) -> str:
    """Return the variant that a name stands for.

    Args:
        name: A variant; or a short name, or the name of a variant in timm (also with a tag),
            torchvision, Hugging Face or among the authors' files, in any case, with ``_`` or ``-``.

    Raises:
        ConfigError: If the name is not known; the message proposes at most three similar ones.
    """
    found = find_variant(name)
    if found is not None:
        return found
    near = proposals(name)
    meant = f"did you mean {near}? " if near else ""
    raise ConfigError(
        f"unknown model {shortened(name)}; {meant}'swin-deploy models' lists all of them"
    )


def find_variant(name: str) -> str | None:
    """Return the variant that a name stands for, or None; see ``variant_name``."""
    return name if name in VARIANTS else _BY_NAME.get(_plain(name))


def proposals(name: str) -> str:
    """Return at most three variants or short names that are spelt like a name, as one text."""
    known = {_plain(one): one for one in VARIANTS} | {_plain(one): one for one in SHORT_NAMES}
    near = difflib.get_close_matches(_plain(name), known, MOST_PROPOSED)
    *others, last = [known[one] for one in near] or [""]
    return f"{', '.join(others)} or {last}" if others else last


def short_names(variant: str) -> list[str]:
    """Return the short names of a variant."""
    return [short for short, known in SHORT_NAMES.items() if known == variant]


def _plain(name: str) -> str:
    """Return a name as ``_BY_NAME`` has it: hyphens, sizes in full, no owner, data or tag."""
    words = OWNERS.sub("", name.strip().lower()).partition(".")[0].replace("_", "-")
    words = DATA.sub("", words).replace("swin-v2-", "swinv2-")
    words = re.sub(r"^(swinv2-\w+)-patch4", r"\1", words)  # timm's names of V2 lack it
    size = re.match(r"^(swin|swinv2|swin-s3|notebook-swin)-([tsbl])(?=-|$)", words)
    return words if size is None else f"{size[1]}-{LETTERS[size[2]]}{words[size.end() :]}"


_BY_NAME = {_plain(short): known for short, known in SHORT_NAMES.items()} | {
    _plain(one): one for one in VARIANTS
}
