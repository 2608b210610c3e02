"""A policy for the embedded world."""

from configs import base


def get_config():
  c = base.get_config()
  c.objective.name = 'next_token'
  c.head.kind = 'lm'
  c.data.train = 'world_exact:train'
  c.data.validation = 'world_exact:validation'
  c.text.max_length = 96
  # Short rows: slow rotations would never turn within one.
  c.model.rope_theta = 100.0
  c.train.steps = 1000
  c.train.batch_size = 32
  c.train.validate_every = 500
  c.logging.every_steps = 100
  return c
