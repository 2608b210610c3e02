"""What the runs in the embedded world share: data, model, length.

Not run by itself; configs/pqm.py, bce.py and td.py differ in the objective alone
and so train on the same batches.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.data.train = 'world:train'
  c.data.validation = 'world:validation'
  c.data.evaluate = ', '.join(
    f'{split}=world:{split}'
    for split in ('heldout', 'heldout_longer', 'heldout_misconceptions')
  )
  c.data.pools = c.data.evaluate
  c.format.max_length = 96
  # Short rows: slow rotations would never turn within one, and longer chains than
  # those trained on would meet unseen angles.
  c.model.rope_theta = 100.0
  c.optimizer.peak_lr = 1e-3
  c.train.steps = 5000
  c.train.batch_size = 32
  c.train.validate_every = 1000
  c.logging.every_steps = 100
  return c
