"""`python -m examples.own_trainer`: our collator and loss in a plain `transformers.Trainer`. Seconds, no download."""

from typing import Any

from transformers import MistralConfig, MistralForCausalLM, Trainer, TrainingArguments

import stoical
from stoical.encoding.tokenization import train_bpe

LISTS = {"deer": "ruminant mammal animal", "eagle": "bird animal", "salmon": "fish animal", "oak": "tree plant"}
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


class RankingTrainer(Trainer):
    """Trains on packed batches. The loss is a micro-batch's mean, so Trainer must divide by the accumulation steps."""

    loss = stoical.SToICaLLoss(stoical.TargetSettings(item="fractional", alpha=2.0))
    loss_is_scaled_for_ga = False  # otherwise Trainer guesses, from the model's signature and the batch

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Of the batch that the collator packed."""
        return self.loss.mean(model, inputs["batch"])


tokenizer = train_bpe([*LISTS, *LISTS.values()], vocab_size=300)
model = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), num_key_value_heads=4, **SHAPE))
encoder = stoical.QueryEncoder.of(tokenizer, "compact")
rows = [stoical.RankingRow.of(query, docs.split()) for query, docs in LISTS.items()]
batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
steps = {"max_steps": 100, "learning_rate": 3e-3, "logging_steps": 20, "save_strategy": "no"}
arguments = TrainingArguments("runs/own_trainer", **batch, **steps)
collator, dataset = stoical.TrieTargetCollator(RankingTrainer.loss.settings), stoical.EncodedDataset(rows, encoder)
RankingTrainer(model, arguments, data_collator=collator, train_dataset=dataset).train()
for row in rows:  # learned by heart, and now given in the alphabet's order
    ranked = stoical.Ranker(model.eval(), encoder).rank(row.query, sorted(doc.docid for doc in row.docs))
    print(row.query, [(found.docid, round(found.score, 2)) for found in ranked])
