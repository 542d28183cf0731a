"""`cite`: the papers behind an objective, a sampling method or a wrapper, as BibTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """One paper, by its arXiv number."""

    title: str
    authors: str  # as BibTeX wants them
    year: int  # of the arXiv version
    arxiv: str
    venue: str = ""  # where it was published, if it was

    def bibtex(self, key: str) -> str:
        """The BibTeX entry."""
        fields = {"title": "{" + self.title + "}", "author": self.authors, "year": str(self.year)}
        fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        fields["url"] = f"https://arxiv.org/abs/{self.arxiv}"
        if self.venue:
            fields["note"] = self.venue
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@misc{{{key},", *lines, "}"])


PAPERS = {
    "karras2022edm": Paper(
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
        2022,
        "2206.00364",
        "NeurIPS 2022",
    ),
    "song2020ddim": Paper(
        "Denoising Diffusion Implicit Models",
        "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
        2020,
        "2010.02502",
        "ICLR 2021",
    ),
    "salimans2022progressive": Paper(
        "Progressive Distillation for Fast Sampling of Diffusion Models",
        "Salimans, Tim and Ho, Jonathan",
        2022,
        "2202.00512",
        "ICLR 2022",
    ),
    "song2023consistency": Paper(
        "Consistency Models",
        "Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya",
        2023,
        "2303.01469",
        "ICML 2023",
    ),
    "song2023improved": Paper(
        "Improved Techniques for Training Consistency Models",
        "Song, Yang and Dhariwal, Prafulla",
        2023,
        "2310.14189",
        "ICLR 2024",
    ),
    "kim2023ctm": Paper(
        "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion",
        "Kim, Dongjun and Lai, Chieh-Hsin and Liao, Wei-Hsiang and Murata, Naoki and "
        "Takida, Yuhta and Uesaka, Toshimitsu and He, Yutong and Mitsufuji, Yuki and "
        "Ermon, Stefano",
        2023,
        "2310.02279",
        "ICLR 2024",
    ),
    "geng2024ect": Paper(
        "Consistency Models Made Easy",
        "Geng, Zhengyang and Pokle, Ashwini and Luo, William and Lin, Justin and Kolter, J. Zico",
        2024,
        "2406.14548",
        "ICLR 2025",
    ),
    "wang2024sct": Paper(
        "Stable Consistency Tuning: Understanding and Improving Consistency Models",
        "Wang, Fu-Yun and Geng, Zhengyang and Li, Hongsheng",
        2024,
        "2410.18958",
    ),
    "xu2023stf": Paper(
        "Stable Target Field for Reduced Variance Score Estimation in Diffusion Models",
        "Xu, Yilun and Tong, Shangyuan and Jaakkola, Tommi",
        2023,
        "2302.00670",
        "ICLR 2023",
    ),
    "wang2024pcm": Paper(
        "Phased Consistency Models",
        "Wang, Fu-Yun and Huang, Zhaoyang and Bergman, Alexander William and others",
        2024,
        "2405.18407",
        "NeurIPS 2024",
    ),
    "lee2024tcm": Paper(
        "Truncated Consistency Models",
        "Lee, Sangyun and Xu, Yilun and Geffner, Tomas and Fanti, Giulia and Kreis, Karsten and "
        "Vahdat, Arash and Nie, Weili",
        2024,
        "2410.14895",
        "ICLR 2025",
    ),
    "lu2024scm": Paper(
        "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models",
        "Lu, Cheng and Song, Yang",
        2024,
        "2410.11081",
        "ICLR 2025",
    ),
    "geng2025meanflow": Paper(
        "Mean Flows for One-step Generative Modeling",
        "Geng, Zhengyang and Deng, Mingyang and Bai, Xingjian and Kolter, J. Zico and He, Kaiming",
        2025,
        "2505.13447",
        "NeurIPS 2025",
    ),
    "sabour2025ayf": Paper(
        "Align Your Flow: Scaling Continuous-Time Flow Map Distillation",
        "Sabour, Amirmojtaba and Fidler, Sanja and Kreis, Karsten",
        2025,
        "2506.14603",
    ),
    "ho2022cfg": Paper(
        "Classifier-Free Diffusion Guidance",
        "Ho, Jonathan and Salimans, Tim",
        2022,
        "2207.12598",
    ),
    "karras2024autoguidance": Paper(
        "Guiding a Diffusion Model with a Bad Version of Itself",
        'Karras, Tero and Aittala, Miika and Kynk{\\"a}{\\"a}nniemi, Tuomas and Lehtinen, Jaakko '
        "and Aila, Timo and Laine, Samuli",
        2024,
        "2406.02507",
        "NeurIPS 2024",
    ),
    "sauer2021projected": Paper(
        "Projected GANs Converge Faster",
        'Sauer, Axel and Chitta, Kashyap and M{\\"u}ller, Jens and Geiger, Andreas',
        2021,
        "2111.01007",
        "NeurIPS 2021",
    ),
    "zhao2020diffaugment": Paper(
        "Differentiable Augmentation for Data-Efficient GAN Training",
        "Zhao, Shengyu and Liu, Zhijian and Lin, Ji and Zhu, Jun-Yan and Han, Song",
        2020,
        "2006.10738",
        "NeurIPS 2020",
    ),
    "balaji2022ediffi": Paper(
        "eDiff-I: Text-to-Image Diffusion Models with an Ensemble of Expert Denoisers",
        "Balaji, Yogesh and Nah, Seungjun and Huang, Xun and others",
        2022,
        "2211.01324",
    ),
}

# What uses what. Names are those of OBJECTIVES, of SAMPLERS, and of the wrappers.
CITED: dict[str, tuple[str, ...]] = {
    "dsm": ("karras2022edm",),
    "ctm": ("kim2023ctm",),
    "ctm_gan": ("kim2023ctm", "sauer2021projected", "zhao2020diffaugment"),
    "pd": ("salimans2022progressive",),
    "cm": ("song2023consistency",),
    "ict": ("song2023improved", "song2023consistency"),
    "ect": ("geng2024ect",),
    "sct": ("wang2024sct", "xu2023stf", "geng2024ect"),
    "tcm": ("lee2024tcm",),
    "scm": ("lu2024scm",),
    "meanflow": ("geng2025meanflow",),
    "ayf": ("sabour2025ayf",),
    "exact": ("kim2023ctm",),
    "gamma": ("kim2023ctm",),
    "jumps": ("kim2023ctm",),
    "onestep": ("song2023consistency",),
    "cm_multistep": ("song2023consistency",),
    "phased": ("wang2024sct", "wang2024pcm"),
    "heun": ("karras2022edm",),
    "churn": ("karras2022edm",),
    "euler": ("song2020ddim",),
    "guided": ("karras2024autoguidance", "ho2022cfg", "wang2024sct"),
    "routed": ("lee2024tcm", "balaji2022ediffi"),
}


def cite(what: Any) -> str:
    """BibTeX of the papers to cite, one entry after the other, the most specific first.

    Args:
        what: name of an objective, of a sampling method ("phased", ...) or of a wrapper ("guided",
            "routed"), upper or lower case; an objective, a wrapped model; or a sampler, whose
            method and model are both cited.

    Raises:
        ValueError: for a name that is not in the table.
    """
    keys: list[str] = []
    for name in names_of(what):
        if name not in CITED:
            raise ValueError(f"nothing to cite for {name!r}; choose from {sorted(CITED)}")
        keys += [key for key in CITED[name] if key not in keys]
    return "\n\n".join(PAPERS[key].bibtex(key) for key in keys)


def names_of(what: Any) -> list[str]:
    """Names in CITED that something stands for."""
    if isinstance(what, str):
        return [what.lower()]
    method = getattr(what, "method", None)
    if isinstance(method, str):
        model = type(getattr(what, "model", None)).__name__.lower()
        return [method, *([model] if model in CITED else [])]
    name = (what if isinstance(what, type) else type(what)).__name__.lower()
    # A registered name may have underscores that the class has not.
    return [next((known for known in CITED if known.replace("_", "") == name), name)]
