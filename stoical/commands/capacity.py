"""Section 3 of the SToICaL paper with exact numbers, and what a model's output layer can write of a dataset's docIDs.

  stoical capacity output=DIR [quick=true] [parts=ceilings,lists,...]   the study: tables and figures, in minutes
  stoical capacity checkpoint=runs/wordnet_alpha2 [key=value ...]       a checkpoint's output layer, on its dataset
  stoical capacity recipe=wordnet_alpha2 [key=value ...]                only its shape: no weights are read

The study writes report.md, results.json and figures to output=; given again, the same command goes on where it was
interrupted. A model is measured on data.path: rank(E') over the docID tokens (Proposition 3.1), the trie nodes whose
children it leaves no choice, and docID tokens that no hidden vector makes the most probable one. docs/capacity.md
explains both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from stoical.commands.shell import Command, Given, quiet_libraries
from stoical.common.fields import unknown
from stoical.common.files import check_writable, write_whole
from stoical.common.options import option
from stoical.config.recipe import Recipe
from stoical.data.files import check_dataset

if TYPE_CHECKING:
    from stoical.studies.capacity.docid_tokens import ModelCapacity, OutputLayer

STUDY = ("quick", "parts")  # options that a model does not have
MODEL_FILE = "capacity.json"


@dataclass
class CapacityOptions:
    """What `stoical capacity` takes beside a recipe's settings."""

    output: str | None = option(
        None, "the directory to write to (null: runs/capacity, or for a model capacity in its run's directory)"
    )
    quick: bool = option(False, "everything small, in seconds")
    parts: str = option("ceilings,lists,output,ranker,limit", "which parts of the study to find")
    checkpoint: str | None = option(None, "a run (its last checkpoint is taken) or a checkpoint, to measure its model")


def run(given: Given) -> None:
    """The study, or a model."""
    if given.options.checkpoint is None and "recipe" not in given.settings:
        study(given)
    else:
        useless = [name for name in STUDY if name in given.names]
        if useless:
            raise ValueError(f"{useless[0]}= is the study's, and has no effect on a model; remove it")
        measure(given)


def study(given: Given) -> None:
    """Find what is missing and print the tables."""
    if given.settings:
        name = next(iter(given.settings))
        if name.partition(".")[0] not in {each.name for each in fields(Recipe)}:
            options = [each.name for each in fields(CapacityOptions)]
            raise unknown("option", name, options, " --help explains every option.")
        raise ValueError(f"{name}= is a model's: give checkpoint=DIR or recipe=NAME with it (--help explains both)")
    from stoical.studies.capacity.study import carry_out, check_parts, prepare

    options, output = given.options, Path(given.options.output or "runs/capacity")
    parts = [part for part in options.parts.split(",") if part]
    check_parts(parts)
    prepare(output, options.quick)
    from stoical.runs.lock import only_run

    with only_run(output):
        rows = carry_out(output, options.quick, parts)
        from stoical.studies.capacity.report import write_report

        print(write_report(rows, output))
    print(f"written to {output}")


def measure(given: Given) -> None:
    """Measure a model's output layer on its dataset, and print and write what was found."""
    from stoical.evaluating import load_evaluation

    job = load_evaluation(given.options.checkpoint, given.settings)
    check_dataset(job.recipe.data.path)
    output = Path(given.options.output or Path(str(job.recipe.output)) / "capacity")
    check_writable(output)
    quiet_libraries()
    from stoical.studies.capacity.docid_tokens import model_capacity

    layer = shape_of(job.recipe) if given.options.checkpoint is None else layer_of(job.recipe, job.adapter)
    found = model_capacity(layer, docid_lists(job.recipe))
    print("\n".join(lines(found)))
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / MODEL_FILE, json.dumps({"data": job.recipe.data.path, **asdict(found)}, indent=2) + "\n")
    print(f"written to {output / MODEL_FILE}")


def layer_of(recipe: Recipe, adapter: Path | None) -> OutputLayer:
    """The output layer of a checkpoint, adapters included, in float64."""
    import torch

    from stoical.build.encoder import build_tokenizer
    from stoical.build.model import load_model
    from stoical.studies.capacity.docid_tokens import OutputLayer

    head = load_model(recipe, build_tokenizer(recipe), adapter).eval().get_output_embeddings()  # type: ignore[operator]
    kind = head.weight.dtype
    with torch.no_grad():  # asked for its values at the unit vectors, a layer may be wrapped as it likes
        zero = head(torch.zeros(1, head.weight.shape[1], dtype=kind)).double()
        unit = head(torch.eye(head.weight.shape[1], dtype=kind)).double()
    if not unit.isfinite().all():
        raise ValueError(f"{adapter or recipe.model.name} has an output layer of numbers that are not finite")
    bias = zero[0].numpy() if zero.any() else None
    return OutputLayer(head.weight.shape[1], (unit - zero).T.contiguous().numpy(), bias)


def shape_of(recipe: Recipe) -> OutputLayer:
    """The output layer's shape alone, of the recipe's model; Mistral-7B's is known without a network."""
    from stoical.build.encoder import build_tokenizer
    from stoical.build.model import build_config, meta_model
    from stoical.encoding.tokenization import MISTRAL_V3_MODELS
    from stoical.studies.capacity.docid_tokens import OutputLayer

    local = recipe.model.name in MISTRAL_V3_MODELS
    config = build_config(recipe, build_tokenizer(recipe, local=local), local)
    return OutputLayer(int(meta_model(recipe, config).get_output_embeddings().weight.shape[1]))


def docid_lists(recipe: Recipe) -> list[list[tuple[int, ...]]]:
    """The docIDs of every query of both splits as token ids, terminator included; negatives are left out."""
    from stoical.build.encoder import build_tokenizer
    from stoical.common.progress import progress
    from stoical.data.dataset import load_split
    from stoical.encoding.tokenization import MISTRAL_V3_MODELS, DocIDTokenizer

    own = recipe.tokenizer
    tokenizer = build_tokenizer(recipe, local=own.name in MISTRAL_V3_MODELS)
    ids_of = DocIDTokenizer(tokenizer, own.terminator, own.count_terminator)
    lists = []
    for split in ("train", "test"):
        rows = load_split(recipe.data.path, split)
        for index in progress(range(len(rows)), f"docIDs of {rows.name}"):
            lists.append([*dict.fromkeys(tuple(ids_of(doc.docid)) for doc in rows[index].docs)])
    return lists


def lines(found: ModelCapacity) -> list[str]:
    """What to print."""
    corpus, lists = found.corpus, found.lists
    weighed = found.dead_among_docids is not None
    most = "" if weighed else " at most (the weights were not read)"
    enough = "enough" if found.rank == found.tokens else "fewer: one hidden vector cannot write them in every order"
    told = [
        f"hidden vectors of {found.hidden:,} numbers; {found.docids:,} docIDs of {found.tokens:,} different tokens",
        f"rank(E') over these tokens, Proposition 3.1: {found.rank:,}{most}; {enough}",
        f"trie of all docIDs: {corpus.nodes:,} inner nodes, at most {corpus.largest:,} children; "
        f"more children than rank(E'): {_share(corpus.above_rank, corpus.nodes)}; "
        f"not free to order theirs: {_share(corpus.bound, corpus.nodes)}",
        f"tries of the {lists.tries:,} lists: at most {lists.largest:,} children (median of the largest "
        f"{lists.median_largest:g}); more than rank(E'): {_share(lists.above_rank, lists.nodes)} of inner nodes; "
        f"lists with a node that is not free: {_share(lists.tries_bound, lists.tries)}",
    ]
    for dead, where in ((found.dead_among_docids, "docID token"), (found.dead_in_vocabulary, "token")):
        if dead is not None:
            named = f": {', '.join(map(str, dead[:10]))}{', ...' * (len(dead) > 10)}" * bool(dead)
            told.append(f"docID tokens that no hidden vector makes the most probable {where}: {len(dead):,}{named}")
    return told


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.3g}%)"


main = Command(str(__doc__), run, CapacityOptions, settings=True)
