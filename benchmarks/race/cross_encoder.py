"""The entrant that scores pairs: sentence-transformers' CrossEncoder, on the language model's own body."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import MistralForSequenceClassification
from transformers.trainer_callback import PrinterCallback

from benchmarks.race.clock import Marks
from benchmarks.race.course import Start
from benchmarks.race.language_models import Tuned, adamw, arguments
from benchmarks.race.rows import orders
from stoical.data.negatives import NegativeSampler
from stoical.data.rows import RankingRow

NEGATIVES = 1  # documents that are none of a list's own, as the test split has, where it has any
SHARE = 32  # pairs of one forward pass in training
PREDICTED = 32  # pairs of one forward pass in evaluation


def build(start: Start, directory: str) -> Any:
    """A CrossEncoder with one output, whose body has the weights that the language models start from.

    Its tokenizer is theirs, padded by EOS. The score is read at the last token, as decoders that score pairs have it.
    """
    from sentence_transformers import CrossEncoder

    language_model, tokenizer = start.model(), copy.deepcopy(start.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    config = copy.deepcopy(language_model.config)
    config.update({"num_labels": 1, "pad_token_id": tokenizer.pad_token_id})
    config._attn_implementation = "sdpa"
    torch.manual_seed(start.recipe.seed)
    model = MistralForSequenceClassification(config)
    model.model.load_state_dict(language_model.model.state_dict())
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return CrossEncoder(
        directory,
        num_labels=1,
        device="cpu",
        max_length=start.recipe.prompt.max_length,
        activation_fn=torch.nn.Identity(),
    )


def pair(query: str, docid: str) -> tuple[str, str]:
    """The two texts of a pair."""
    return f"{query} :", docid


def score(model: Any, pairs: list[tuple[str, str]]) -> Any:
    """The scores of (query, docID), by the model's own `predict`."""
    return model.predict([pair(*each) for each in pairs], batch_size=PREDICTED)


def lists(start: Start) -> dict[str, list[Any]]:
    """Every training list, best first, with negatives at the end, drawn anew for as many epochs as stoical makes."""
    count = NEGATIVES if any(row.negatives for row in start.test) else 0
    sampler = NegativeSampler(start.train.docids(), count, start.recipe.seed)
    columns: dict[str, list[Any]] = {"query": [], "docs": [], "labels": []}
    for epoch in range(orders(start) if count else 1):
        for row in start.train:
            docs = [*(doc.docid for doc in row.docs), *(sampler.draw(row, epoch) if count else ())]
            columns["query"].append(pair(row.query, "")[0])
            columns["docs"].append(docs)
            columns["labels"].append(labels(row, len(docs)))
    return columns


def labels(row: RankingRow, total: int) -> list[float]:
    """The number of documents that are ranked below a document, a negative's being 0; the loss reads their order."""
    return [float(max(0, len(row.docs) - place)) for place in range(total)]


def run_cross_encoder(start: Start, marks: Marks, tuned: Tuned) -> None:
    """CrossEncoderTrainer with its ListMLE loss, over (query, docID), one list of documents a row."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListMLELoss

    with tempfile.TemporaryDirectory() as directory:
        model = build(start, directory)
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(**arguments(start, tuned, directory)),
            train_dataset=Dataset.from_dict(lists(start)),
            loss=ListMLELoss(model, mini_batch_size=SHARE),
            callbacks=[marks],
            optimizers=adamw(model, start, tuned, marks),
        )
        trainer.remove_callback(PrinterCallback)
        marks.evaluate = lambda: measured(start, model)
        marks.count_tokens(model[0])  # it calls the body's `forward`, past hooks on the body
        trainer.train()


def measured(start: Start, model: Any) -> dict[str, float]:
    """The metrics of a cross encoder, which trains on afterwards."""
    training = model.training
    found = start.measure_scores(lambda pairs: score(model, pairs))
    model.train(training)
    return found
