"""Eight simulated devices, strict shapes, and a compilation cache a test run."""

import jax
import pytest
from absl import flags

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp('jax_cache')
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
