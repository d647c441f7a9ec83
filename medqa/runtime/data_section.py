"""Section `data` of params.yaml: the rows, their kinds and limits, and the decontamination."""

from typing import Annotated, Literal

from pydantic import Field

from medqa.runtime.fields import Count, PositiveShare, Section, Share

SPLITS = ("train", "dev", "test")


class EmbeddedRows(Section):
    """The corpus that comes with the project."""

    source: Literal["embedded"]


class HubRows(Section):
    """A data set of the Hugging Face Hub, pinned to a commit.

    Its files, or their folders, name their split: train, dev (or validation) and test. Of an SFT set the
    training files are read, or all files where none names a split.
    """

    source: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name."""
    revision: str = Field(min_length=1)
    """The commit, so that the rows never change."""


class SftFile(Section):
    """A file of the user's."""

    source: Literal["files"]
    path: str
    """Relative to `corpus`, or absolute."""


class PreferenceFiles(Section):
    """Three files of the user's, relative to `corpus` or absolute."""

    source: Literal["files"]
    train: str
    """The preference questions."""
    dev: str
    """Held-out questions and labelled pairs."""
    test: str
    """Further ones."""


Kinds = Annotated[tuple[Literal["open", "exam", "literature"], ...], Field(min_length=1)]


class DataParams(Section):
    """Section `data`: the rows, their kinds and limits (null: no limit), and the decontamination."""

    sft: Annotated[EmbeddedRows | HubRows | SftFile, Field(discriminator="source")]
    """The rows for supervised fine-tuning."""
    preference: Annotated[EmbeddedRows | HubRows | PreferenceFiles, Field(discriminator="source")]
    """The preference questions, held-out questions and labelled pairs."""
    sft_kinds: Kinds
    """Kinds of questions to fine-tune on."""
    question_kinds: Kinds
    """Kinds of questions that candidates are generated for."""
    held_out_kinds: Kinds
    """Kinds of questions to evaluate on."""
    max_sft: Count | None
    """Rows at most."""
    max_questions: Count | None
    """Preference questions at most."""
    max_held_out: Count | None
    """Held-out questions at most."""
    max_labelled: Count | None
    """Labelled pairs at most."""
    max_bad_share: Share
    """Stop if more than this share of a source's rows is unusable."""
    near_duplicate: PositiveShare | None
    """Word n-gram similarity (weighted Jaccard) to a held-out prompt from which a row leaves training."""

    def files(self) -> dict[str, str]:
        """The files that the section names, by key, relative to `corpus`."""
        files = {"sft.path": self.sft.path} if isinstance(self.sft, SftFile) else {}
        if isinstance(self.preference, PreferenceFiles):
            files |= {f"preference.{split}": getattr(self.preference, split) for split in SPLITS}
        return files
