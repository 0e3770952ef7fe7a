"""`python -m examples.from_recipe`: a recipe trained and evaluated from Python, on the mammals of WordNet.

Half a minute: 40 steps, where `make quickstart` takes the 600 of the overlay `small`. Given again, it only evaluates.
"""

from pathlib import Path

import stoical
from stoical.commands.main import main as command

DATA = "data/mammal"


def main(steps: int = 40, output: str = "runs/from_recipe") -> None:
    """Make the data if it is missing, train, evaluate, and rank a list."""
    if not Path(DATA).exists():
        command(["prepare", "wordnet", f"out={DATA}", "subtree=mammal.n.01", "test_size=200"])
    settings = [f"data.path={DATA}", f"output={output}", f"training.max_steps={steps}", "training.warmup_steps=10"]
    checkpoint = stoical.train(stoical.load_recipe("wordnet_alpha2", "small", "quickstart", *settings, "resume=auto"))
    metrics = stoical.evaluate(checkpoint).metrics
    print(", ".join(f"{name} {100 * metrics[name]:.2f}%" for name in ("cvr", "ndcg", "recall@1", "recall@5")))
    ranker = stoical.Ranker.from_pretrained(checkpoint)
    for row in ranker.rank("deer.n.01", ["entity.n.01", "mammal.n.01", "ruminant.n.01", "animal.n.01"]):
        print(row.rank, row.docid, round(row.score, 2))


if __name__ == "__main__":
    main()
