"""x"""

from configs import embedded


def get_config():
  c = embedded.get_config()
  c.objective.name = 'bce'
  return c
