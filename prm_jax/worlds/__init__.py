"""The embedded world: problems, simulated solvers and truths that need no download.

Reading order: `problems` (what is asked), `solvers` (who answers, and how they
err), `truths` (what is right, in three senses), `arithmetic` (rows and records of
all splits), `noise` (labels made worse on purpose), `report` (figures of a world).
"""
