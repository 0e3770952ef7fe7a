"""A recipe to what every command needs: tokenizer, encoder, model, evaluator."""
