"""Small models of the whole, explored exhaustively; read a scenario with ``model_rules`` beside it.

``explorer`` tries every order of steps; ``model_database`` and ``model_values`` are what the other
models stand on; ``python -m pytest tests/explorer -s`` prints how many states each has, and the
shortest way in which each rule, once taken out, is missed.
"""
