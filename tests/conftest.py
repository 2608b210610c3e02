"""Eight simulated devices, strict shapes, and a compilation cache a test run."""

import gc

import jax
import pytest
from absl import flags
from hypothesis import settings

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Most of the time goes into compiling; the tests ask what is done, not how fast.
jax.config.update('jax_disable_most_optimizations', True)
flags.FLAGS.mark_as_parsed()
# The same examples for the same source; --hypothesis-profile=explore draws others.
settings.register_profile('explore', derandomize=False)
settings.register_profile('same', derandomize=True)
settings.load_profile('same')
# A full collection walks everything that jax has traced so far.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp('jax_cache')
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
