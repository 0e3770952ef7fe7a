"""Evaluate a checkpoint on the test split: scores of every document and negative, exact in one forward a batch.

  accelerate launch evaluate.py checkpoint=runs/wordnet_alpha2 [key=value ...]   a checkpoint, or a run's last one
  python evaluate.py recipe=wordnet_alpha2 [key=value ...]                       the recipe's untrained model

Writes metrics.json, per_query.jsonl, summary.md, TREC's run.txt and qrels.txt, and figures to <checkpoint's run>/eval,
or to output=DIR. Evaluates the whole test split; with eval.num_queries=200 a sample of it, into eval_200.
eval.mode=greedy_path scores with the paper's proxy instead, into eval_greedy_path. A checkpoint that is not the run's
last one is evaluated into eval_checkpoint-N.

With diagnostics=true also diagnostics.json and mismatch.png: how far the model is from the recipe's target, token by
token, where the target wrote the prefix (teacher forcing) and where the model did (free running). The target is that of
the recipe's loss; to compare runs, give all of them the same one, such as loss.token=trie loss.beta=2.

With generation=true, for plain text, also generation.json: what greedy decoding writes without a trie beside the
query's first document (exact match, edit similarity, where they part), and accuracy and nats a token where that is
given. The texts are in per_query.jsonl.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from stoical.arguments import no_accelerator
from stoical.build import build_encoder, build_evaluator, build_tokenizer, load_model
from stoical.checkpoints import load_evaluation
from stoical.cli import run
from stoical.data import load_split
from stoical.reporting.generation import write_generation
from stoical.reporting.mismatch import write_diagnostics
from stoical.reporting.report import results_table, write_report
from stoical.run_dir import check_writable


def main(arguments: Sequence[str]) -> None:
    job = load_evaluation(arguments)
    recipe = job.recipe
    check_writable(job.output)
    precision = "bf16" if recipe.training.get("bf16") else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=no_accelerator())
    tokenizer = build_tokenizer(recipe)
    test = load_split(recipe.data.path, "test")
    evaluator = build_evaluator(recipe, test, build_encoder(recipe, tokenizer), job.num_queries)
    evaluator = replace(evaluator, diagnostics=job.diagnostics, generation=job.generation)
    model = load_model(recipe, tokenizer, job.adapter).to(accelerator.device)
    with accelerator.autocast():
        result = evaluator(model, progress=sys.stderr.isatty())
    if accelerator.is_main_process:
        name = Path(str(recipe.output)).name
        metrics = write_report(result, job.output, name)
        if job.diagnostics:
            write_diagnostics(result.rows, recipe.loss, job.output, name)
        print(results_table(name, metrics))
        if job.generation:
            print(write_generation(result.rows, job.output, name))
        print(f"written to {job.output}")


if __name__ == "__main__":
    run(main, __doc__ or "")
