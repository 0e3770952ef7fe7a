"""What is trained: a row of a table is a recipe with its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

SMALL = "small,quickstart"
TEACHER = "wordnet_alpha2"  # whose scores the losses that distil learn from, seed by seed


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its title, and the words of `stoical train` that define it. taught: learns from the teacher's scores."""

    title: str
    words: tuple[str, ...]
    taught: bool = False


def paper_row(recipe: str, title: str) -> Row:
    """A recipe of the paper's, on the small model and data."""
    return Row(title, (f"recipe={recipe},{SMALL}",))


def ranking_row(name: str, *settings: str, taught: bool = False) -> Row:
    """A ranking loss alone."""
    return Row(name, (f"recipe=wordnet_ranking,{SMALL}", f"loss.ranking={name}", *settings), taught)


TABLE_1 = {
    "wordnet_ntp": paper_row("wordnet_ntp", "NTP"),
    **{f"wordnet_alpha{a}": paper_row(f"wordnet_alpha{a}", f"lambda = 1/r^{a}") for a in (1, 2, 3, 4, 5)},
    "wordnet_stepwise": paper_row("wordnet_stepwise", "lambda stepwise"),
    **{f"wordnet_beta{b}": paper_row(f"wordnet_beta{b}", f"trie, mu = 1/r^{b}") for b in (1, 2, 3, 4, 5)},
}
TABLE_3 = {
    f"wordnet_alpha2_beta{b}": paper_row(f"wordnet_alpha2_beta{b}", f"lambda = 1/r^2, trie, mu = 1/r^{b}")
    for b in (1, 2, 3, 4, 5, 6, 7, 9, 25)
}
LOSSES = {
    "list_mle": ranking_row("list_mle"),
    "p_list_mle": ranking_row("p_list_mle"),
    "list_net": ranking_row("list_net"),
    "softmax": ranking_row("softmax"),
    "rank_net": ranking_row("rank_net"),
    "lambda_loss": ranking_row("lambda_loss"),
    "approx_ndcg": ranking_row("approx_ndcg", "loss.ranking_temperature=0.1"),
    "adr_mse": ranking_row("adr_mse", "loss.ranking_temperature=0.1"),
    "softmax_dpo": ranking_row("softmax_dpo"),
    "list_dpo": ranking_row("list_dpo"),
    "info_nce": ranking_row("info_nce", "data.num_negatives=8"),
    "margin_mse": ranking_row("margin_mse", taught=True),
    "rank_distil": ranking_row("rank_distil", taught=True),
    "policy_gradient": ranking_row("policy_gradient", "loss.ranking_temperature=0.1"),
}
BESIDE = {  # what a ranking loss alone leaves out: docIDs off the list, and text
    "list_mle_negatives": replace(ranking_row("list_mle", "data.num_negatives=8"), title="list_mle, 8 negatives"),
    "alpha2_list_mle": Row(
        "1/r^2 + 0.5 list_mle",
        (f"recipe=wordnet_alpha2,{SMALL}", "loss.ranking=list_mle", "loss.ranking_weight=0.5"),
    ),
}
OURS = {"wordnet_every_node": paper_row("wordnet_every_node", "every node, mu = 1/r^2")}
SECTIONS = {"table_1": TABLE_1, "table_3": TABLE_3, "losses": LOSSES, "beside": BESIDE, "ours": OURS}
TITLES = {
    "table_1": "Table 1 in miniature",
    "table_3": "Table 3 in miniature",
    "losses": "Ranking losses alone",
    "beside": "ListMLE with 8 negatives a query, and beside the paper's loss",
    "ours": "A target at every node",
}
