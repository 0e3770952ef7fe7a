"""Studies: experiments on made-up data that answer a question of a paper, with the library's own losses."""
