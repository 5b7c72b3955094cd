"""The legend of axes: a tensor that more than one function sees carries its axes in its name.

`log_probability_KANC[k, a, n, c]` is the log probability that model k gives to class c for view a of record n.

| letter | axis | counts |
| --- | --- | --- |
| K | models | of one stack (shadow models, attack networks) |
| T | targets | models under attack; a stack too |
| A | views | augmented views of a record; 1 where there is no augmentation |
| N | records | of the population |
| C | classes | of the classification task |
| B | batch | records of one optimiser step |
| F | thresholds | points of a curve |
| E | epochs | of training |

Where several appear they stand in the order K T A N C, and B replaces N inside an optimiser step.
"""
