"""The options that all importers share, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stoical.common.options import option

from .checks import check_least, check_seed
from .dataset_dir import check_replaceable
from .grades import RankRule, Twice, parse_labels
from .item_texts import TextColumns

DOCID_CHOICES = ("id", "title")


@dataclass
class ListOptions:
    """What the user can set in every importer; `grades.py` has the rule that it describes."""

    out: str = option("data/mine", "the directory to write; a dataset in it is replaced if this command made it")
    irrelevant: Literal["negatives", "last"] = option(
        "negatives",
        "documents that are not relevant. negatives: scored at evaluation only; last: at the end of the list, so that "
        "the prompt holds them",
    )
    max_irrelevant: int = option(
        10, "how many irrelevant documents a query gets: the best of the run, then some drawn by the seed"
    )
    relevant_above: float = option(0.0, "documents with a higher grade are relevant")
    grades: str = option(
        "", "what labels count as, such as E:3,S:2,C:1,I:0, where grades or scores are not numbers; one for each label"
    )
    twice: Twice = option(
        "first", "which grade counts where a pair comes twice with two: the first, the best, or error to stop there"
    )
    text: Literal["both", "title", "text", "none"] = option(
        "both", "a document's text: its title, its text, both (title first), or none"
    )
    docids: str = option(
        "id",
        "what the model writes for a document: id, title, or a file that stoical prepare docids made (items.parquet)",
    )
    id_column: str = option(
        "", "the column of ids in files of texts, where it is not _id or id; of names parted by commas a file's first"
    )
    title_column: str = option("", "the column of titles in files of texts, where it is not title")
    text_column: str = option("", "the column of texts in files of texts, where it is not text")
    test_size: int | None = option(
        None, "how many queries are for testing where the source has no split; if not given, a tenth"
    )
    seed: int = option(0, "seed of the split and of the irrelevant documents, 0 to 4294967295")
    licence: str = option("unknown", "the data's licence, for the manifest")

    def check(self, tool: str) -> None:
        """Raise ValueError for settings that are wrong."""
        check_replaceable(Path(self.out), tool)
        check_seed(self.seed)
        check_least(self, max_irrelevant=0)
        self.labels()
        if self.docids not in DOCID_CHOICES and not Path(self.docids).is_file():
            raise ValueError(
                f"docids={self.docids}: neither id, nor title, nor a file that stoical prepare docids made"
            )

    def labels(self) -> dict[str, float]:
        """From label to grade, as `grades` says; empty for plain numbers. Raises ValueError where it is not so."""
        return parse_labels(self.grades)

    def text_columns(self) -> TextColumns:
        """What the columns of the files of texts are called."""
        return TextColumns.of(self.id_column, self.title_column, self.text_column)

    def rule(self) -> RankRule:
        """How documents are ranked."""
        return RankRule(self.relevant_above, self.irrelevant, self.max_irrelevant, self.seed)
