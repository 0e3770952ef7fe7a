"""Section 3 of the SToICaL paper with exact numbers: how many orders of documents a ranker of n dimensions can make.

`counts` has the counts in closed form, the other modules measure against them, `docid_tokens` looks at a model.
"""
