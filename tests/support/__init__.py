"""What tests share: references in float64, made-up inputs, tiny runs."""
