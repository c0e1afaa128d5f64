"""What a plan will take before it is built: tokens, seconds, memory, disk and money.

`shapes` knows models by their configs, `amounts` what passes between stages, `formulas` what a
stage of each kind takes, `estimate` walks a plan.
"""
