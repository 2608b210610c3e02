"""Look at solutions and trees in a browser, without training or measuring anything.

    python -m prm_jax.main --config=configs/view.py --config.input=scored.jsonl.gz \
        --config.output=view.html

`input` is any source (path[:format], several with commas). Two scorers of the rows side
by side, with thresholds of your own; a label set may stand for a scorer:

    --config.view_scores=prm@0.4,math_shepherd --config.data.truth=human

Trees: `input` is the workdir of a label run whose algorithm grows them (OmegaPRM), or
of a search with search.tree=true. Evaluated runs, each with the threshold that it used:

    python -m prm_jax.main --config=configs/view.py --config.a=runs/pqm \
        --config.b=runs/bce --config.output=view.html

One HTML file comes out, which loads nothing from anywhere. Two runs of 4,894 solutions
are paired and written in 8 s on 2 busy CPU cores, a page of 11 MB.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.job = 'view'
  c.data.truth = ''
  return c
