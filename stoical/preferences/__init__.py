"""DPO and SPIN by TRL, on token ids that are never tokenized again."""
