"""`python -m examples.own_loop`: the loss in a PyTorch loop of your own, on lists of your own. Seconds, no download."""

import random

import torch
from torch.utils.data import DataLoader
from transformers import MistralConfig, MistralForCausalLM

import stoical
from stoical.encoding.tokenization import train_bpe

PLANETS = ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]  # nearest to the sun first
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def planets(number: int, length: int) -> stoical.RankingRow:
    """A list of some planets, the best first; its number decides the order in which the prompt shows them."""
    chosen = sorted(random.sample(PLANETS, length), key=PLANETS.index)
    return stoical.RankingRow.of("nearest to the sun", chosen, query_id=str(number))


random.seed(0), torch.manual_seed(0)
tokenizer = train_bpe(["nearest to the sun", *PLANETS], vocab_size=320)  # or any tokenizer of transformers
model = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), num_key_value_heads=4, **SHAPE))
encoder = stoical.QueryEncoder.of(tokenizer, "compact")
loss = stoical.SToICaLLoss(stoical.TargetSettings(item="fractional", alpha=2.0))  # rank r counts 1 / r^2
train = stoical.EncodedDataset([planets(number, random.choice([3, 4, 6])) for number in range(2400)], encoder)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step, inputs in enumerate(DataLoader(train, batch_size=16, collate_fn=stoical.TrieTargetCollator(loss.settings))):
    value = loss.mean(model, inputs["batch"])
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 50 == 0:
        print(f"step {step:3}: loss {value.item():.2f} nats a docID")
batch = stoical.TrieTargetCollator(prune=False)([encoder.encode(planets(n, 5)) for n in range(100)])["batch"]
scores = stoical.doc_scores(batch, stoical.node_logprobs(model.eval(), batch).logprobs, "sum").view(100, 5)
print(f"{(scores.diff() < 0).all(dim=1).sum()} of 100 lists of five, a new length, are in the right order (chance: 1)")
