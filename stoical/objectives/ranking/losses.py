"""The table of ranking losses, by the name that `loss.ranking` gives them."""

from __future__ import annotations

from stoical.objectives.ranking.adr_mse import ADR_MSE
from stoical.objectives.ranking.approx_ndcg import APPROX_NDCG
from stoical.objectives.ranking.info_nce import INFO_NCE
from stoical.objectives.ranking.lambda_loss import LAMBDA_LOSS
from stoical.objectives.ranking.list_dpo import LIST_DPO
from stoical.objectives.ranking.list_mle import LIST_MLE
from stoical.objectives.ranking.list_net import LIST_NET
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.margin_mse import MARGIN_MSE
from stoical.objectives.ranking.p_list_mle import P_LIST_MLE
from stoical.objectives.ranking.policy_gradient import POLICY_GRADIENT
from stoical.objectives.ranking.rank_distil import RANK_DISTIL
from stoical.objectives.ranking.rank_net import RANK_NET
from stoical.objectives.ranking.softmax import SOFTMAX
from stoical.objectives.ranking.softmax_dpo import SOFTMAX_DPO

LOSSES: dict[str, RankingLoss] = {
    "list_mle": LIST_MLE,
    "p_list_mle": P_LIST_MLE,
    "list_net": LIST_NET,
    "softmax": SOFTMAX,
    "rank_net": RANK_NET,
    "lambda_loss": LAMBDA_LOSS,
    "approx_ndcg": APPROX_NDCG,
    "adr_mse": ADR_MSE,
    "softmax_dpo": SOFTMAX_DPO,
    "list_dpo": LIST_DPO,
    "info_nce": INFO_NCE,
    "margin_mse": MARGIN_MSE,
    "rank_distil": RANK_DISTIL,
    "policy_gradient": POLICY_GRADIENT,
}
