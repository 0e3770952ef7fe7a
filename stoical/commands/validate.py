"""Check ranking data: every problem with its file and line, or counts of what the data holds.

  stoical validate FILE_OR_DIR [limit=N] [key=value ...]

FILE_OR_DIR is a dataset directory (train, test, manifest.json) or one split: a .jsonl file (or .jsonl.gz), a .parquet
file or a `datasets` directory. With settings of a recipe, such as tokenizer.name=NAME prompt.template=FILE
prompt.max_length=N or recipe=wordnet_alpha2,small, it tokenizes every query and reports prompt and docID lengths, what
truncation would drop, and docIDs that become the same tokens. The exit status is 0 for valid data and 2 for data with
problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stoical.commands.shell import Command, Given
from stoical.common.numbers import at_least
from stoical.common.options import option
from stoical.common.progress import progress
from stoical.config.loading import load_recipe
from stoical.data.files import decoded, raw_rows
from stoical.data.rows import parse_row
from stoical.data.validation import LIMIT, Problems, check_rows, find_files, leaks
from stoical.encoding.token_counts import TokenCounts, same_tokens


def token_lines(
    path: Path, files: Sequence[Path], settings: Sequence[str], problems: Problems
) -> dict[Path, list[str]]:
    """Lines to print for each of the valid `files` of the dataset `path`, tokenized as a recipe's settings say.

    Queries that training would stop at are noted as problems. Raises ValueError for settings that are wrong.
    """
    recipe = load_recipe(*settings)
    recipe.data.path = str(path)
    if recipe.tokenizer.name == "bpe" and path in files:
        raise ValueError("tokenizer.name=bpe is trained on the train split: give the dataset directory, not one split")
    from stoical.build.encoder import build_encoder, build_tokenizer

    encoder = build_encoder(recipe, build_tokenizer(recipe))
    lines = {}
    for file in files:
        counts = TokenCounts()
        for where, raw in progress(raw_rows(file), f"tokenizing {file}"):
            row = parse_row(decoded(raw, where), where)
            try:
                query = encoder.encode(row, negatives=True)
            except ValueError as error:
                problems.add([f"{where}: {error}"])
                continue
            problems.add(f"{where}: {message}" for message in same_tokens(query))
            counts.add(query)
        lines[file] = list(counts.lines(recipe.prompt.max_length)) if counts.prompts else []
    return lines


def validate(path: Path, limit: int, settings: Sequence[str]) -> int:
    """Check `path`, print what was found, and return the exit status. ValueError for settings that are wrong."""
    problems = Problems(limit)
    files = find_files(path, problems)
    counts = {file: check_rows(file, problems) for file in files}
    lines = {file: list(found.lines()) for file, found in counts.items() if found.lengths}
    if settings and not problems.count:
        for file, found in token_lines(path, files, settings, problems).items():
            lines[file] += found
    if problems.count:
        print("\n".join(problems.shown))
        more = problems.count - len(problems.shown)
        print(f"{problems.count:,} problems" + f", {more:,} of them not shown (limit={limit})" * bool(more))
        return 2
    for file, found in lines.items():
        print("\n  ".join([f"{file}: valid", *found]))
    for line in leaks([*counts.values()]):
        print(line)
    return 0


@dataclass
class ValidateOptions:
    """What `stoical validate` takes beside a recipe's settings."""

    limit: int = option(LIMIT, "how many problems are shown; all are counted")


def run(given: Given) -> int:
    """Check the one file or directory that is given."""
    if len(given.words) != 1:
        raise ValueError(f"give one file or directory to validate, not {len(given.words)}")
    at_least("limit", given.options.limit, 1)
    settings = [f"{key}={value}" for key, value in given.settings.items()]
    return validate(Path(given.words[0]), given.options.limit, settings)


main = Command(str(__doc__), run, ValidateOptions, settings=True, words=1_000)
