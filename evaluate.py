"""Evaluate a checkpoint on the test split: exact scores of every document and negative, one forward a batch.

  accelerate launch evaluate.py checkpoint=runs/wordnet_alpha2 [key=value ...]   a checkpoint, or a run's last one
  python evaluate.py recipe=wordnet_alpha2 [key=value ...]                       the recipe's untrained model

Writes metrics.json and per_query.jsonl to <checkpoint's run>/eval, or to output=DIR. Evaluates the whole test split
unless eval.num_queries is given.
"""

import sys
from collections.abc import Sequence

from accelerate import Accelerator

from stoical.build import build_config, build_encoder, build_evaluator, build_model, build_tokenizer
from stoical.checkpoints import load_evaluation
from stoical.cli import run
from stoical.data import load_split
from stoical.reporting.tables import metrics_table
from stoical.run_dir import check_writable


def main(arguments: Sequence[str]) -> None:
    recipe, output, num_queries = load_evaluation(arguments)
    check_writable(output)
    accelerator = Accelerator(mixed_precision="bf16" if recipe.training.get("bf16") else "no")
    tokenizer = build_tokenizer(recipe)
    test = load_split(recipe.data.path, "test")
    evaluator = build_evaluator(recipe, test, build_encoder(recipe, tokenizer), num_queries)
    model = build_model(recipe, build_config(recipe, tokenizer)).to(accelerator.device)
    with accelerator.autocast():
        result = evaluator(model, progress=sys.stderr.isatty())
    if accelerator.is_main_process:
        result.save(output)
        print(metrics_table([(recipe.model.name, result.metrics)]))
        print(f"written to {output}")


if __name__ == "__main__":
    run(main, __doc__ or "")
