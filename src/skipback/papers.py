"""Papers that more than one method page cites. A paper with one method stands in that method's file."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a method comes from.

    Attributes:
        letter: tells a paper from an earlier one here of the same first author and year, as in launay2020b.
    """

    title: str
    authors: str
    year: int
    venue: str
    url: str
    letter: str = ""

    @property
    def key(self) -> str:
        """The citation key in plain ASCII, e.g. nokland2016. No two papers of the library share one."""
        last_name = self.authors.split(",")[0].split()[-1].lower().replace("ø", "o")
        name = unicodedata.normalize("NFKD", last_name).encode("ascii", "ignore").decode()
        return f"{name}{self.year}{self.letter}"


FRENKEL_2021 = Paper(
    title="Learning Without Feedback: Fixed Random Learning Signals Allow for Feedforward Training "
    "of Deep Neural Networks",
    authors="Charlotte Frenkel, Martin Lefebvre, David Bol",
    year=2021,
    venue="Frontiers in Neuroscience 15",
    url="https://arxiv.org/abs/1909.01311",
)

NOKLAND_2016 = Paper(
    title="Direct Feedback Alignment Provides Learning in Deep Neural Networks",
    authors="Arild Nøkland",
    year=2016,
    venue="NIPS 29",
    url="https://arxiv.org/abs/1609.01596",
)

REN_2023 = Paper(
    title="Scaling Forward Gradient With Local Losses",
    authors="Mengye Ren, Simon Kornblith, Renjie Liao, Geoffrey Hinton",
    year=2023,
    venue="ICLR 2023",
    url="https://arxiv.org/abs/2210.03310",
)

LIAO_2016 = Paper(
    title="How Important Is Weight Symmetry in Backpropagation?",
    authors="Qianli Liao, Joel Z. Leibo, Tomaso Poggio",
    year=2016,
    venue="AAAI 30",
    url="https://arxiv.org/abs/1510.05067",
)

AKROUT_2019 = Paper(
    title="Deep Learning without Weight Transport",
    authors="Mohamed Akrout, Collin Wilson, Peter C. Humphreys, Timothy Lillicrap, Douglas Tweed",
    year=2019,
    venue="NeurIPS 32",
    url="https://arxiv.org/abs/1904.05391",
)
