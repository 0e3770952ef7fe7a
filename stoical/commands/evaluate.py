"""Evaluate a checkpoint on the test split: scores of every document and negative, exact in one forward a batch.

  stoical evaluate checkpoint=runs/wordnet_alpha2 [key=value ...]   a checkpoint, or a run's last one
  stoical evaluate recipe=wordnet_alpha2 [key=value ...]            the recipe's untrained model
  accelerate launch -m stoical evaluate checkpoint=runs/wordnet_alpha2

From a checkout, evaluate.py is the same. Writes metrics.json, per_query.jsonl, summary.md, TREC's run.txt and
qrels.txt, and figures to <checkpoint's run>/eval, or to output=DIR, in the place of an earlier evaluation on the same
data. Evaluates the whole test split; with eval.num_queries=200 a sample of it, into eval_200. eval.mode=greedy_path
scores along one greedy path in the trie, into eval_greedy_path; eval.mode=free_greedy_path is the paper's proxy,
without a trie. Another score, prompt or seed than the run's goes into a directory of its name, such as eval_sum or
eval_max_length_512, a checkpoint that is not the run's last one into eval_checkpoint-N, other data than the run's
(data.path=data/other) into eval_other.

eval.metrics=[graded_ndcg@10,map,...] adds the field's metrics, on the grades that the data has. The rows below the
model's are the same metrics of a random order, of the order that the prompts have, and of BM25 where documents have
texts.

With eval.diagnostics=true also diagnostics.json and mismatch.png: how far the model is from the recipe's target, token
by token, where the target wrote the prefix (teacher forcing) and where the model did (free running). The target is that
of the recipe's loss; to compare runs, give all of them the same one, such as loss.token=trie loss.beta=2.

With eval.calibration=true also calibration.json and reliability.png: the probabilities among a query's documents beside
the loss's target, and a temperature. With eval.shuffles=5 also order_sensitivity.json: the metrics under five orders of
the prompt's documents, and how often two of them rank documents differently.

With eval.generation=true, for plain text, also generation.json: what greedy decoding writes without a trie beside the
query's first document (exact match, edit similarity, where they part), and accuracy and nats a token where that is
given. The texts are in per_query.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoical.commands.shell import Command, Given, quiet_libraries
from stoical.common.options import option
from stoical.data.files import check_dataset
from stoical.evaluating import evaluate_and_report, load_evaluation


@dataclass
class EvaluateOptions:
    """What `stoical evaluate` takes beside a recipe's settings."""

    checkpoint: str | None = option(None, "a run (its last checkpoint is taken) or a checkpoint; or give recipe=")


def run(given: Given) -> None:
    """Evaluate, write the report and print its table."""
    job = load_evaluation(given.options.checkpoint, given.settings)
    check_dataset(job.recipe.data.path)
    quiet_libraries()
    evaluate_and_report(job)


main = Command(str(__doc__), run, EvaluateOptions, settings=True)
