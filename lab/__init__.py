"""A small world in which a model of a million parameters can live R1's story in minutes.

Questions of four families with exact answers, worked traces in two scripts with stated error
rates, and a corpus of both in mixed quality to pre-train a base on. `ops` is a search: it pays to
try, check and try again, which is what reflection is made of here.
"""
